"""`optimizer.offload`: the same updates with the optimizer state in host memory; real DeepSpeed on one gloo rank."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import torch
from torch import Tensor

from openr1.actors.workers import group_settings, learner_settings, start_workers
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.sft import SftObjective
from openr1.config.sections import ModelConfig, OptimizerConfig, PolicyConfig
from openr1.errors import PolicyError
from openr1.placement.group import Place
from openr1.workers.deepspeed.config import deepspeed_config
from openr1.workers.group import PolicyGroup
from openr1.workers.worker import TrainWorker
from tests.integration.test_world_size import batch_of, save


class ReadableWorker(TrainWorker):
    """A policy rank whose weights a test can read."""

    def read(self) -> dict[str, Tensor]:
        """Full weights, by name."""
        return {name: tensor.clone() for name, tensor in self.policy.weights()}

    def loaded_compiler(self) -> bool:
        """Whether torch.compile's backend was imported, for which nothing here has a use."""
        return "torch._inductor.compile_fx" in sys.modules

    def offloads(self) -> bool:
        """Whether DeepSpeed has the optimizer state in host memory."""
        return bool(self.learner.backend._engine.zero_cpu_offload())


def start(model: ModelConfig, offload: str, zero_stage: int, logs: Path) -> tuple[PolicyGroup, ray.actor.ActorHandle]:
    """A policy on one rank, whose micro-batches are smaller than its batches."""
    policy = PolicyConfig(zero_stage=zero_stage, micro_batch_tokens=30, timeout_seconds=120.0)
    optimizer = OptimizerConfig.model_validate(
        {"learning_rate": 1e-3, "lr_scheduler": "linear", "max_norm": 0.5, "weight_decay": 0.1, "offload": offload}
    )
    learner = learner_settings(model, optimizer, policy, total_updates=10)
    workers = start_workers(learner, policy, [Place()], logs, ReadableWorker)
    assert ray.get(workers[0].offloads.remote()) == (offload == "cpu")
    assert not ray.get(workers[0].loaded_compiler.remote())
    return PolicyGroup(workers, group_settings(learner, policy)), workers[0]


def step(group: PolicyGroup, update: int) -> tuple[float, float, float]:
    """Loss, gradient norm and learning rate of one update."""
    stats = group.step(batch_of(update), SftObjective())
    return stats.loss, stats.grad_norm, stats.learning_rate


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("zero_stage", "dtype"),
    [
        (2, "bfloat16"),
        (3, "float32"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(1, "float32"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")]
        ),
    ],
)
def test_updates_are_those_without_offload(
    ray_cluster: None, tiny_model: Callable[[bool], Path], tmp_path: Path, zero_stage: int, dtype: str
) -> None:
    """Catches another Adam, clipping or decay in host memory, micro-batches that are added up in 16 bits or not at
    all, a checkpoint that loses the state, and a gradient that is not finite and is applied.

    Two updates of several micro-batches each. A weight moves by up to the learning rate, 1e-3, in each.
    """
    model = ModelConfig.model_validate({"path": tiny_model(True), "dtype": dtype})
    group, worker = start(model, "none", zero_stage, tmp_path / "logs_none")
    before = ray.get(worker.read.remote())
    expected = [step(group, update) for update in (0, 1)]
    weights = ray.get(worker.read.remote())
    ray.kill(worker)
    assert max(float((weights[name] - before[name]).abs().max()) for name in weights) > 1e-3

    group, worker = start(model, "cpu", zero_stage, tmp_path / "logs_cpu")
    first = step(group, 0)
    save(group, tmp_path / "policy")
    second = step(group, 1)
    offloaded = ray.get(worker.read.remote())
    group.load(tmp_path / "policy")
    again = step(group, 1)
    resumed = ray.get(worker.read.remote())
    bad = batch_of(2)
    assert bad.loss_weights is not None
    with pytest.raises(PolicyError, match="gradient norm is"):
        group.step(TrainBatch(**{**vars(bad), "loss_weights": bad.loss_weights * torch.inf}), SftObjective())
    kept = ray.get(worker.read.remote())
    ray.kill(worker)

    assert [*first, *second] == pytest.approx([*expected[0], *expected[1]], rel=1e-5)
    assert again == pytest.approx(second, rel=1e-6)
    assert_same(offloaded, weights)
    assert_same(resumed, offloaded)
    assert all(torch.equal(kept[name], resumed[name]) for name in resumed)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Weights equal but for rounding: float32 by 1e-5; of 16 bits, one in a thousand may round to its neighbor."""
    assert actual.keys() == expected.keys()
    pairs = [(actual[name].flatten(), expected[name].flatten()) for name in expected]
    one, other = (torch.cat(part) for part in zip(*pairs, strict=True))
    if one.dtype == torch.float32:
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        return
    # Neighbors differ by up to 2**-7 of the smaller one.
    torch.testing.assert_close(one, other, atol=1e-6, rtol=2**-7)
    assert float((one != other).float().mean()) < 1e-3


def test_settings_of_offload_by_hand() -> None:
    """Catches an offload that DeepSpeed does not get, and one that nobody asked for."""
    assert deepspeed_config(2, "bfloat16", 1.0, "cpu")["zero_optimization"]["offload_optimizer"] == {
        "device": "cpu",
        "pin_memory": True,
    }
    assert "offload_optimizer" not in deepspeed_config(2, "bfloat16", 1.0)["zero_optimization"]
