"""Pushes that fail, over shared memory and gloo: two real engines, two ranks under ZeRO 3, everything is real."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from openr1.config.train import TrainConfig
from openr1.errors import ActorLost, WeightSyncError
from openr1.weight_sync.sender import PHASES
from tests.fakes import make_config
from tests.pushing import BOUND, Connected, connected

pytestmark = pytest.mark.timeout(600)

PHASE_SECONDS = 60
"""What an engine has to start again, which takes about 15 s."""


def push_config(model: Path, data: Path, folder: Path, backend: str, **policy: object) -> TrainConfig:
    return make_config(
        folder,
        model={"path": str(model), "dtype": "float32"},
        data={"train": str(data / "train.jsonl"), "prompt_max_len": 64},
        rollout={"generate_max_len": 16, "kv_cache_gib": 0.1, "max_num_seqs": 32, "num_engines": 2},
        algorithm={"init_kl_coef": 0.0},
        policy={"micro_batch_tokens": 2048, "timeout_seconds": PHASES * PHASE_SECONDS, **policy},
        weight_sync={"backend": backend},
    )


BOTH = pytest.mark.parametrize("both", ["gloo", pytest.param("shm", marks=pytest.mark.slow)], indirect=True)
SHM = pytest.mark.parametrize("both", [pytest.param("shm", marks=pytest.mark.slow)], indirect=True)


@pytest.fixture(scope="module", params=["gloo"])
def both(
    request: pytest.FixtureRequest,
    ray_cluster: None,
    tiny_model: Callable[[bool], Path],
    countdown_files: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Connected]:
    """Two engines and two ranks that have pushed once."""
    folder = tmp_path_factory.mktemp("pushes")
    config = push_config(tiny_model(False), countdown_files, folder, request.param, zero_stage=3, num_ranks=2)
    with connected(config, folder, (1, 1)) as one:
        one.push()
        yield one


def change(both: Connected) -> None:
    """Change the policy so that engines with the weights of before are far off."""
    assert min(both.on_ranks("change")) > 0


def is_right(both: Connected, version: int) -> bool:
    return max(both.differences(version)) < BOUND


@BOTH
def test_two_engines_get_what_changes(both: Connected) -> None:
    """Catches two engines at one rank of the group, and a rank under ZeRO 3 that sends its own part only."""
    assert is_right(both, both.version)
    change(both)
    assert min(both.differences(both.version)) > 20 * BOUND
    both.push()
    assert is_right(both, both.version)


@BOTH
def test_a_failed_push_leaves_the_old_weights_in_service(both: Connected) -> None:
    """Catches an engine that stays stopped after a push which another engine could not begin, one that lost weights in
    it, ranks that wait for each other, and an error without the name of the engine.
    """
    before = both.version
    ray.get(both.engines[1].fail.remote("start", 2, "raise"))
    change(both)
    with pytest.raises(WeightSyncError, match=r"engine 1: RuntimeError: this engine was told to fail.*new connection"):
        both.push()
    assert min(both.differences(before)) > 20 * BOUND
    both.on_ranks("undo")
    assert is_right(both, before)
    change(both)
    both.push()
    assert is_right(both, both.version)


def test_a_push_is_made_once_more(both: Connected) -> None:
    """Catches a load that broke off in the middle of a layer and is left open, which the next one cannot begin; peers
    that wait in a broadcast for an engine that has left it; and a first failure that ends the run.
    """
    for phase, how in (("load", "part"), ("finish", "raise")):
        ray.get(both.engines[1].fail.remote(phase, 1, how))
        change(both)
        start = time.monotonic()
        both.push()
        # It takes 0.3 s; an engine that is not let go of waits for half a phase.
        assert time.monotonic() - start < PHASE_SECONDS / 4
        assert is_right(both, both.version), phase


@BOTH
def test_an_engine_with_a_part_of_the_weights_generates_nothing(both: Connected) -> None:
    """Catches tokens from a mixture of two versions, and requests that are lost while an engine waits for the next."""
    ray.get(both.engines[0].fail.remote("load", 2, "part"))
    change(both)
    with pytest.raises(WeightSyncError, match="engine 0"):
        both.push()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(both.sample, 0)
        time.sleep(1.0)
        assert not waiting.done()
        change(both)
        both.push()
        versions = {response.weight_version for group in waiting.result(60) for response in group.responses}
    assert versions == {both.version}
    assert is_right(both, both.version)


@BOTH
def test_an_engine_that_dies_in_a_push_gets_its_weights(both: Connected) -> None:
    """Catches a run that ends because an engine died while it loaded, an engine that serves the weights of the start,
    and peers that wait for the dead until a deadline: the push takes its restart and little more.
    """
    before = ray.get(both.engines[0].pid.remote())
    ray.get(both.engines[0].fail.remote("load", 1, "kill"))
    change(both)
    start = time.monotonic()
    both.push()
    assert time.monotonic() - start < 2 * PHASE_SECONDS
    assert ray.get(both.engines[0].pid.remote()) != before
    assert is_right(both, both.version)


def error_of_restarted(both: Connected, engine: int) -> str:
    """What an engine says to a request when Ray has started it again; until then there is nobody to answer."""
    while True:
        try:
            both.sample(engine)
        except ActorLost as error:
            if "started again" in str(error):
                return str(error)
            time.sleep(0.5)


def test_an_engine_that_died_between_pushes_is_connected_again(both: Connected) -> None:
    """Catches a restarted engine that generates with the weights of the model's folder as if they were the policy's."""
    os.kill(ray.get(both.engines[1].pid.remote()), signal.SIGKILL)
    assert "has not got the policy's weights yet" in error_of_restarted(both, 1)
    both.policy.reconnect_engines(both.engines)
    assert is_right(both, both.version)


def test_an_engine_that_answers_too_late_is_named(both: Connected) -> None:
    """Catches a wait without a deadline, a message that does not say whom to look at, and an engine that stays stopped:
    its process is ended, and the one that Ray starts gets the weights.
    """
    stopped = ray.get(both.engines[1].pid.remote())
    before = both.version
    both.on_ranks("hurry", 4.0)
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(WeightSyncError, match=r"to begin a weight update: engine 1: not done.*engine 1: not done"):
        both.push()
    assert max(both.differences(before, [0])) < BOUND
    both.on_ranks("hurry", float(PHASE_SECONDS))
    both.policy.reconnect_engines(both.engines)
    assert ray.get(both.engines[1].pid.remote()) != stopped
    change(both)
    both.push()
    assert is_right(both, both.version)


@SHM
def test_a_push_without_room_fails_and_the_next_one_does_not(both: Connected) -> None:
    """Catches ranks that gather while rank 0 cannot write, and engines that stop for a file that never comes."""
    before = both.version
    both.on_ranks("limit_files", 10_000)
    with pytest.raises(WeightSyncError, match="File too large"):
        both.push()
    assert is_right(both, before)
    both.on_ranks("limit_files", None)
    both.push()
    assert is_right(both, both.version)
