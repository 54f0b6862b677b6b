"""`placement.sleep` with the real parts, as far as they go without a GPU: DeepSpeed moves its state, an engine rests.

The CPU's vLLM pauses, forgets its cache and wakes up as on a GPU, but ignores what concerns memory.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
import torch
from torch import Tensor

from openr1.actors.engines import start_engines, train_engine_settings, wait_for_engines
from openr1.actors.gpu_memory import MemoryInTurns, put_to_sleep
from openr1.actors.rl import train_demand
from openr1.actors.workers import group_settings, learner_settings, start_workers
from openr1.algorithms.objectives.sft import SftObjective
from openr1.config.sections import ModelConfig, OptimizerConfig, PolicyConfig
from openr1.data.chat import PromptFormat
from openr1.data.prompts import load_prompts
from openr1.data.tokenizer import load_tokenizer
from openr1.placement.group import Place, Places
from openr1.rollout.pool import RolloutPool
from openr1.runtime.ray_cluster import shared_memory_folder
from openr1.types import SamplingParams
from openr1.weight_sync.backends import SenderFactory
from openr1.workers.group import PolicyGroup
from openr1.workers.worker import TrainWorker
from tests.integration.test_parity import BOUND, ChangeableWorker, Pair, parity_config
from tests.integration.test_world_size import batch_of, save
from tests.pushing import FailingEngine


class ReadableWorker(TrainWorker):
    """A policy rank whose weights, and moved states, a test can read."""

    def read(self) -> dict[str, Tensor]:
        """Full weights, by name."""
        return {name: tensor.clone() for name, tensor in self.policy.weights()}

    def moved(self) -> set[str]:
        """What DeepSpeed has in host memory for now."""
        return {state.value for state in self.learner.backend._engine.optimizer.offloaded_states}


def start(model: ModelConfig, zero_stage: int, offload: str, logs: Path) -> tuple[PolicyGroup, ray.actor.ActorHandle]:
    """A policy on one rank."""
    policy = PolicyConfig(zero_stage=zero_stage, micro_batch_tokens=30, timeout_seconds=120.0)
    optimizer = OptimizerConfig.model_validate(
        {"learning_rate": 1e-3, "lr_scheduler": "linear", "max_norm": 0.5, "weight_decay": 0.1, "offload": offload}
    )
    learner = learner_settings(model, optimizer, policy, total_updates=10)
    workers = start_workers(learner, policy, [Place()], logs, ReadableWorker)
    return PolicyGroup(workers, group_settings(learner, policy)), workers[0]


def step(group: PolicyGroup, update: int) -> tuple[float, float, float]:
    """Loss, gradient norm and learning rate of one update."""
    stats = group.step(batch_of(update), SftObjective())
    return stats.loss, stats.grad_norm, stats.learning_rate


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("zero_stage", "dtype", "offload"),
    [
        (2, "bfloat16", "none"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(2, "float32", "none"), (3, "bfloat16", "cpu")]),
    ],
)
def test_updates_are_those_of_a_state_that_stays(
    ray_cluster: None, tiny_model: Callable[[bool], Path], tmp_path: Path, zero_stage: int, dtype: str, offload: str
) -> None:
    """Catches moments, master weights or gradients that are lost or stale after a move, log-probs that need them, and
    a checkpoint that is saved while they are away and holds something else.

    In both runs: an update, a checkpoint, another update. In the second one everything is away between them.
    """
    model = ModelConfig.model_validate({"path": tiny_model(True), "dtype": dtype})
    group, worker = start(model, zero_stage, offload, tmp_path / "logs_kept")
    expected = [step(group, 0)]
    log_probs = group.log_probs(batch_of(9))
    expected.append(step(group, 1))
    weights = ray.get(worker.read.remote())
    ray.kill(worker)

    group, worker = start(model, zero_stage, offload, tmp_path / "logs_moved")
    group.offload()
    assert (ray.get(worker.moved.remote()) == {"optim_states", "hp_params", "lp_grads"}) == (offload == "none")
    group.reload()
    assert ray.get(worker.moved.remote()) == set()
    found = [step(group, 0)]
    group.offload()
    assert torch.equal(group.log_probs(batch_of(9)), log_probs)
    save(group, tmp_path / "policy")
    group.reload()
    found.append(step(group, 1))
    moved = ray.get(worker.read.remote())
    group.load(tmp_path / "policy")
    again = step(group, 1)
    resumed = ray.get(worker.read.remote())
    ray.kill(worker)

    assert found == expected
    assert again == found[1]
    for name, weight in weights.items():
        assert torch.equal(moved[name], weight)
        assert torch.equal(resumed[name], weight)


@pytest.mark.timeout(300)
def test_a_sleeping_engine_waits_for_its_weights(
    ray_cluster: None, tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path
) -> None:
    """Catches an engine that generates in its sleep, one that does not wake up at a push, requests that are lost in
    between, weights or a cache of before, and a push that is given up on an engine of which only a part has woken up.
    """
    config = parity_config(tiny_model(True), countdown_files, tmp_path, 1.0)
    prompts = load_prompts(config.data.train, load_tokenizer(config.model.path), 64, PromptFormat())[:8]
    places = Places.on_cpu(train_demand(config))
    with shared_memory_folder() as shared, ThreadPoolExecutor(1) as thread:
        engines = start_engines(train_engine_settings(config, places), 1, places.engines, kind=FailingEngine)
        wait_for_engines(engines, 120)
        put_to_sleep(engines, 60)
        learner = learner_settings(config.model, config.optimizer, config.policy, 1)
        workers = start_workers(learner, config.policy, places.policy, tmp_path / "logs", ChangeableWorker)
        policy = PolicyGroup(workers, group_settings(learner, config.policy))
        policy.connect_engines(SenderFactory("shm", engines, str(shared), 120))
        pair = Pair(RolloutPool(engines, 120), policy, workers[0], prompts, 1.0)
        memory = MemoryInTurns(engines, [], 60)
        for _ in range(2):
            memory.for_generation()
            pair.push()
            assert pair.largest_difference() < BOUND
            memory.for_training()
            assert ray.get(workers[0].change.remote("embed_tokens|norm|proj")) > 0
            sampling = SamplingParams(4, 24, 1.0, 1.0, seed=pair.version, seed_stream="asleep")
            waiting = thread.submit(lambda sampling=sampling: list(pair.rollout.generate(prompts, sampling)))
            time.sleep(1.0)
            assert not waiting.done()
            memory.for_generation()
            ray.get(engines[0].fail.remote("load", 1, "part"))
            pair.push()
            groups = waiting.result(timeout=60)
            assert {response.weight_version for group in groups for response in group.responses} == {pair.version}
            assert pair.largest_difference() < BOUND
            memory.for_training()
        for actor in (*workers, *engines):
            ray.kill(actor)
