"""Seconds of operations and of decoding, derived by hand."""

from collections import Counter
from dataclasses import replace

import pytest

from openr1.plan.hardware import Speed
from openr1.plan.times import EngineModel, Workload, generate_seconds, optimizer_seconds, seconds_of
from openr1.plan.trace import Operation

SPEED = Speed(
    bfloat16_flops=1000.0,
    float32_flops=100.0,
    attention_flops=10.0,
    bandwidth=50.0,
    operation_seconds=0.01,
    link_bandwidth=6.0,
    decode_seconds=1.0,
    sequence_seconds=0.5,
    push_seconds=0.0,
    push_bandwidth=1.0,
    host_bandwidth=1.0,
)


def test_an_operation_takes_what_limits_it() -> None:
    """Catches a sum of arithmetic and traffic, rates of another kind, and an operation without a least time."""
    operations = Counter(
        {
            Operation("bfloat16", 2000, 50): 3,  # 2 s of arithmetic each, 1 s of traffic
            Operation("float32", 100, 200): 1,  # 1 s of arithmetic, 4 s of traffic
            Operation("attention", 10, 0): 1,  # 1 s
            Operation("other", 0, 100): 2,  # 2 s each
            Operation("other", 0, 0): 10,  # 0.01 s each
        }
    )
    assert seconds_of(operations, SPEED) == pytest.approx(3 * 2 + 4 + 1 + 2 * 2 + 10 * 0.01)


def test_decoding_waits_for_the_longest_response() -> None:
    """Catches steps by the mean length, weights that are read once per response, and prompts of every response.

    Eight responses on two engines, two sequences at a time: two waves of ten steps, each 1 s and 100 bytes of weights
    (2 s): 60 s. Four responses of five tokens: 20 tokens of 0.5 s, 100 operations (0.1 s) and 6.5 tokens of context of
    10 bytes (1.3 s): 38 s. One prompt of four tokens: 0.4 s.
    """
    work = Workload(responses=8, prompts=2, prompt_length=4, response_length=5, longest=10)
    model = EngineModel(weight_bytes=100, token_flops=100, kv_bytes=10)
    assert generate_seconds(work, model, 2, 2, SPEED) == pytest.approx(60 + 38 + 0.4)
    # One wave, however many sequences would fit.
    assert generate_seconds(work, model, 2, 99, SPEED) == pytest.approx(30 + 38 + 0.4)
    # Over two GPUs each step still costs its scheduling.
    free = replace(SPEED, sequence_seconds=0.0)
    assert generate_seconds(work, model, 2, 99, free, gpus_per_engine=2) == pytest.approx(20 + 14 + 0.2)


def test_the_optimizer_reads_its_share_and_exchanges_the_rest() -> None:
    """Catches an update of all parameters on every rank, and an exchange with oneself.

    By hand: 30 bytes of 100 / 2 parameters at 50 bytes a second, and 6 bytes of half of 100 at 6 bytes a second.
    """
    assert optimizer_seconds(100, 1, SPEED) == pytest.approx(60)
    assert optimizer_seconds(100, 2, SPEED) == pytest.approx(30 + 50)
