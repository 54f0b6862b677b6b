"""Asynchronous scheduling gives the tokens of the synchronous one, and is drained before a push; all on the CPU."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from openr1.actors import engines
from openr1.actors.engines import start_engines, train_engine_settings, wait_for_engines
from openr1.actors.rl import train_demand
from openr1.actors.workers import group_settings, learner_settings, start_workers
from openr1.data.chat import PromptFormat
from openr1.data.prompts import load_prompts
from openr1.data.tokenizer import load_tokenizer
from openr1.placement.group import Places
from openr1.rollout.pool import RolloutPool
from openr1.runtime.ray_cluster import shared_memory_folder
from openr1.types import Response, SamplingParams
from openr1.weight_sync.backends import SenderFactory
from openr1.workers.group import PolicyGroup
from tests.async_engine import AsyncEngineActor
from tests.integration.test_parity import BOUND, ChangeableWorker, Pair, parity_config, versions_in_flight


@pytest.fixture(scope="module")
def pairs(
    ray_cluster: None,
    tiny_model: Callable[[bool], Path],
    countdown_files: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Pair, RolloutPool, ray.actor.ActorHandle]]:
    """An asynchronous engine with its policy, a synchronous engine, and the asynchronous one by itself."""
    config = parity_config(tiny_model(True), countdown_files, tmp_path_factory.mktemp("async"), 1.0)
    prompts = load_prompts(config.data.train, load_tokenizer(config.model.path), 64, PromptFormat())[:8]
    places = Places.on_cpu(train_demand(config))
    settings = train_engine_settings(config, places)
    with shared_memory_folder() as shared, pytest.MonkeyPatch.context() as patch:
        plain = start_engines(settings, 1, places.engines)
        patch.setattr(engines, "EngineActor", AsyncEngineActor)
        ahead = start_engines(settings, 1, places.engines)
        learner = learner_settings(config.model, config.optimizer, config.policy, 1)
        workers = start_workers(learner, config.policy, places.policy, config.run.folder / "logs", ChangeableWorker)
        policy = PolicyGroup(workers, group_settings(learner, config.policy))
        wait_for_engines([*plain, *ahead], 120)
        policy.connect_engines(SenderFactory("shm", ahead, str(shared), 120))
        assert ray.get(ahead[0].schedules_ahead.remote())
        yield Pair(RolloutPool(ahead, 120), policy, workers[0], prompts, 1.0), RolloutPool(plain, 120), ahead[0]
        for actor in (*workers, *plain, *ahead):
            ray.kill(actor)


def test_tokens_are_those_of_synchronous_scheduling(
    pairs: tuple[Pair, RolloutPool, ray.actor.ActorHandle],
) -> None:
    """Catches a token that is lost, doubled or sampled from another draw, above all where a response ends."""
    pair, plain, _ = pairs
    sampling = SamplingParams(16, 24, 1.0, 1.0, seed=5, seed_stream="async")

    def responses(pool: RolloutPool) -> list[Response]:
        groups = sorted(pool.generate(pair.prompts, sampling), key=lambda group: group.prompt.id)
        return [response for group in groups for response in group.responses]

    ahead, beside = responses(pair.rollout), responses(plain)
    assert {response.finish_reason for response in ahead} == {"stop", "length"}
    for one, other in zip(ahead, beside, strict=True):
        assert (one.token_ids, one.text, one.finish_reason) == (other.token_ids, other.text, other.finish_reason)
        # Batches are composed differently, so sums are rounded differently.
        assert list(one.log_probs) == pytest.approx(list(other.log_probs), abs=BOUND)


def test_a_push_finds_nothing_in_flight(pairs: tuple[Pair, RolloutPool, ray.actor.ActorHandle]) -> None:
    """Catches weights that are loaded under a batch, whose tokens then belong to neither version, and a drain that
    loses what it finishes.

    Every response that was in flight at a push is checked token by token against old and new weights.
    """
    pair, _, engine = pairs
    assert any((0, 1) in versions_in_flight(pair) for _ in range(10))
    pair.push()
    assert pair.largest_difference() < BOUND
    before, during = zip(*ray.get(engine.in_flight_at_pushes.remote()), strict=True)
    assert max(before) > 0, "no push came while a batch was in flight; the test has no power"
    assert max(during) == 0
