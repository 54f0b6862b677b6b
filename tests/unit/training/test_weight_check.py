"""What engines hold against what the policy holds: by hand, and with real engines of which one goes stale."""

from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import torch

from openr1.actors.engines import start_engines, train_engine_settings, wait_for_engines
from openr1.actors.rl import train_demand
from openr1.actors.workers import group_settings, learner_settings, start_workers
from openr1.data.chat import PromptFormat
from openr1.data.prompts import load_prompts
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import WeightSyncError
from openr1.placement.group import Places
from openr1.rollout.pool import RolloutPool
from openr1.runtime.ray_cluster import shared_memory_folder
from openr1.training.weight_check import WeightCheck
from openr1.types import Group, Prompt
from openr1.weight_sync.backends import SenderFactory
from openr1.workers.group import PolicyGroup
from openr1.workers.worker import TrainWorker
from tests.fakes import FakePolicy, FakeRollout, make_config, make_prompt, make_response

PROMPTS = [make_prompt(number) for number in range(10)]


def engine_with(log_probs: dict[str, float]) -> FakeRollout:
    """An engine whose log-prob of every token is -1, which is the policy's too, but for these prompts."""

    def make(prompt: Prompt) -> Group:
        return Group(prompt, (make_response(1, 2, log_prob=log_probs.get(prompt.id, -1.0)),))

    return FakeRollout(make)


def test_each_engine_is_compared_by_itself(tmp_path: Path) -> None:
    """Catches a mean over all engines, a mean with signs, prompts in which a stale engine hides, and a lost engine.

    Engine 1 is off by 0.8 and -0.8 on two of eight prompts: 0.2 nats a token. Ninth and tenth prompts are not asked.
    """
    config = make_config(tmp_path, model={"path": "m", "dtype": "float32"})
    engines = [engine_with({"p8": 5.0}), engine_with({"p1": -0.2, "p3": -1.8}), engine_with({})]
    check = WeightCheck(config, engines, FakePolicy(), PROMPTS)
    assert [one.nats for one in check.differences()] == [0.0, pytest.approx(0.2), 0.0]
    # Without a user's environment, which may be slow or cost money, and under the whole distribution.
    assert all(sampling.single_turn and sampling.top_p == 1 for one in engines for _, sampling in one.requests)
    with pytest.raises(WeightSyncError, match=r"step 7, engine 1 and the policy differ by 0.2 nats.*more than 0.02"):
        check.check(7)
    WeightCheck(config, engines[::2], FakePolicy(), PROMPTS).check(7)


def test_numbers_that_are_none_are_out_of_bounds(tmp_path: Path) -> None:
    """Catches a comparison that lets weights which overflowed pass."""
    config = make_config(tmp_path)
    with pytest.raises(WeightSyncError, match="engine 0 and the policy differ by nan"):
        WeightCheck(config, [engine_with({"p0": float("nan")})], FakePolicy(), PROMPTS).check(1)


class ShakenWorker(TrainWorker):
    """A policy rank whose weights a test can change."""

    def shake(self) -> None:
        """Add noise of a tenth of its size, at least 0.05, to every parameter."""
        generator = torch.Generator().manual_seed(0)
        for parameter in self.policy.lm.parameters():
            scale = max(0.1 * float(parameter.data.std()), 0.05)
            parameter.data += scale * torch.randn(parameter.shape, generator=generator)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_stale_engine_is_named(
    ray_cluster: None, tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path, dtype: str
) -> None:
    """Catches an engine that pushes do not reach while the others are fine, and an alarm about engines in order.

    After a first push to both, only engine 0 gets the next one. top_p below 1 must not look like a fault. Random
    weights that were changed twice make log-probs which bfloat16 rounds more coarsely than those of a real model.
    """
    rounding = 1e-4 if dtype == "float32" else 0.05
    config = make_config(
        tmp_path,
        model={"path": str(tiny_model(True)), "dtype": dtype},
        data={"train": str(countdown_files / "train.jsonl"), "prompt_max_len": 64},
        rollout={
            "rollout_batch_size": 2,
            "generate_max_len": 24,
            "temperature": 0.7,
            "top_p": 0.9,
            "num_engines": 2,
            "kv_cache_gib": 0.1,
            "max_num_seqs": 32,
        },
        policy={"zero_stage": 1, "micro_batch_tokens": 512},
    )
    prompts = load_prompts(config.data.train, load_tokenizer(config.model.path), 64, PromptFormat())
    timeout = config.policy.timeout_seconds
    with shared_memory_folder() as shared:
        places = Places.on_cpu(train_demand(config))
        engines = start_engines(train_engine_settings(config, places), config.rollout.threads, places.engines)
        learner = learner_settings(config.model, config.optimizer, config.policy, 1, config.rollout.temperature)
        workers = start_workers(learner, config.policy, places.policy, tmp_path / "logs", kind=ShakenWorker)
        policy = PolicyGroup(workers, group_settings(learner, config.policy))
        wait_for_engines(engines, timeout)
        policy.connect_engines(SenderFactory("shm", engines, str(shared), timeout))
        check = WeightCheck(config, RolloutPool(engines, timeout).per_engine(), policy, prompts)
        ray.get(workers[0].shake.remote())
        policy.push_weights(1)
        assert max(one.nats for one in check.differences()) < rounding
        check.check(1)
        policy.connect_engines(SenderFactory("shm", engines[:1], str(shared), timeout))
        ray.get(workers[0].shake.remote())
        policy.push_weights(2)
        fresh, stale = (one.nats for one in check.differences())
        assert fresh < rounding
        assert stale > 0.3
        with pytest.raises(
            WeightSyncError, match=rf"step 2, engine 1 and the policy .* \({dtype}\); likely causes: wei"
        ):
            check.check(2)
        for actor in (*workers, *engines):
            ray.kill(actor)
