"""A parameter without a gradient at ZeRO 3, with real DeepSpeed on one gloo rank."""

from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from torch.nn import functional

from openr1.actors.workers import group_settings, learner_settings, start_workers
from openr1.algorithms.objectives.sft import SftObjective
from openr1.config.sections import ModelConfig, OptimizerConfig, PolicyConfig
from openr1.errors import PolicyError
from openr1.placement.group import Place
from openr1.workers.group import PolicyGroup
from openr1.workers.worker import TrainWorker
from tests.integration.test_world_size import batch_of


class DetachingWorker(TrainWorker):
    """A policy rank of which one layer can be taken out of the backward pass."""

    def detach(self) -> None:
        """From now on the weight of a projection gets no gradient."""
        layer = self.policy.lm.model.layers[1].mlp.down_proj
        layer.forward = lambda inputs: functional.linear(inputs, layer.weight.detach())


def test_a_step_without_all_gradients_is_refused(
    ray_cluster: None, tiny_model: Callable[[bool], Path], tmp_path: Path
) -> None:
    """Catches a weight that moves by the gradient of an earlier step, as DeepSpeed lets it at ZeRO 3; and a check that
    forgets what came in other micro-batches of the same step.
    """
    model = ModelConfig(path=tiny_model(True), dtype="float32")
    policy = PolicyConfig(zero_stage=3, micro_batch_tokens=30, timeout_seconds=120.0)
    learner = learner_settings(model, OptimizerConfig(learning_rate=1e-3), policy, total_updates=10)
    (worker,) = start_workers(learner, policy, [Place()], tmp_path / "logs", DetachingWorker)
    group = PolicyGroup([worker], group_settings(learner, policy))
    for update in (0, 1):
        assert group.step(batch_of(update), SftObjective()).grad_norm > 0
    ray.get(worker.detach.remote())
    with pytest.raises(PolicyError, match=r"1 of \d+ parameters, such as .*layers\.1\.mlp\.down_proj\.weight, got no"):
        group.step(batch_of(2), SftObjective())
    ray.kill(worker)
