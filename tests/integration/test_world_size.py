"""Training state that was saved by one number of ranks, and goes on with another; and state that is not ours."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from threading import Event

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
from openr1.tracking.checkpoint import wait_until_written
from openr1.workers.group import PolicyGroup, WorkerGroup
from openr1.workers.worker import TrainWorker


class ReadableWorker(TrainWorker):
    """A policy rank whose weights a test can read."""

    def read(self) -> dict[str, Tensor]:
        """Full weights, by name; all ranks at once."""
        return {name: tensor.clone() for name, tensor in self.policy.weights()}


def save(group: WorkerGroup, folder: Path) -> None:
    """Save, and wait for the files."""
    group.save(folder)
    wait_until_written(str(folder), group.is_written, 60, Event())


def batch_of(update: int) -> TrainBatch:
    """Six rows that differ in length and from update to update."""
    generator = torch.Generator().manual_seed(update)
    tokens = [torch.randint(5, 400, (length,), generator=generator).tolist() for length in (9, 13, 7, 11, 10, 12)]
    return TrainBatch.from_tokens([(row[:4], row[4:]) for row in tokens]).with_loss_weights("token", 1)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("zero_stage", "saved", "resumed"),
    [
        (2, 2, 1),
        (3, 1, 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(0, 2, 1), (1, 2, 1), (1, 1, 2), (3, 2, 1)]),
    ],
)
def test_updates_of_another_number_of_ranks(
    ray_cluster: None,
    tiny_model: Callable[[bool], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    zero_stage: int,
    saved: int,
    resumed: int,
) -> None:
    """Catches moments, master weights, step counts or a place in the schedule that the conversion loses.

    Three updates, a checkpoint, and two more: made by the ranks that saved it, and by another number that loaded it.
    Without its moments the first of them would move every weight by the learning rate, a thousand times the tolerance.
    """
    schedule = OptimizerConfig(learning_rate=1e-3, lr_scheduler="linear", lr_warmup_steps=2)
    model = ModelConfig(path=tiny_model(True), dtype="float32")

    def start(num_ranks: int) -> tuple[PolicyGroup, list[ray.actor.ActorHandle]]:
        policy = PolicyConfig(num_ranks=num_ranks, zero_stage=zero_stage, micro_batch_tokens=40, timeout_seconds=120.0)
        learner = learner_settings(model, schedule, policy, total_updates=10)
        workers = start_workers(learner, policy, [Place()] * num_ranks, tmp_path / f"logs_{num_ranks}", ReadableWorker)
        return PolicyGroup(workers, group_settings(learner, policy)), workers

    def two_more(group: PolicyGroup, workers: list[ray.actor.ActorHandle]) -> tuple[list[float], dict[str, Tensor]]:
        steps = [group.step(batch_of(update), SftObjective()) for update in (3, 4)]
        weights = ray.get([worker.read.remote() for worker in workers])[0]
        for worker in workers:
            ray.kill(worker)
        return [number for step in steps for number in (step.loss, step.grad_norm, step.learning_rate)], weights

    group, workers = start(saved)
    for update in range(3):
        group.step(batch_of(update), SftObjective())
    save(group, tmp_path / "policy")
    expected, weights = two_more(group, workers)
    # 8 updates of decay: 7/8 and 6/8 of them are left at the fourth and the fifth.
    assert expected[2::3] == pytest.approx([8.75e-4, 7.5e-4])

    group, workers = start(resumed)
    group.load(tmp_path / "policy")
    told = f"saved by {saved} policy rank(s), converted for {resumed}"
    assert (told in capsys.readouterr().out) == (zero_stage > 0)
    found, found_weights = two_more(group, workers)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found_weights.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(found_weights[name], weight, rtol=0, atol=1e-6, msg=lambda text, name=name: name)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp_")] == []


@pytest.mark.timeout(400)
def test_state_that_could_run_code_is_refused(
    ray_cluster: None, tiny_model: Callable[[bool], Path], tmp_path: Path
) -> None:
    """Catches a checkpoint of somebody else that runs code while it is loaded or converted: here it holds a fraction,
    whose class is called in the same way.
    """
    model = ModelConfig(path=tiny_model(True), dtype="float32")

    def start(num_ranks: int) -> tuple[PolicyGroup, list[ray.actor.ActorHandle]]:
        policy = PolicyConfig(num_ranks=num_ranks, zero_stage=2, micro_batch_tokens=40, timeout_seconds=120.0)
        learner = learner_settings(model, OptimizerConfig(), policy, total_updates=10)
        workers = start_workers(learner, policy, [Place()] * num_ranks, tmp_path / f"logs_{num_ranks}")
        return PolicyGroup(workers, group_settings(learner, policy)), workers

    group, workers = start(1)
    save(group, tmp_path / "policy")
    [path] = (tmp_path / "policy").rglob("*_optim_states.pt")
    group.load(tmp_path / "policy")
    torch.save(torch.load(path, weights_only=False) | {"note": Fraction(1, 2)}, path)
    with pytest.raises(PolicyError, match="a file holds more than tensors and plain values"):
        group.load(tmp_path / "policy")
    ray.kill(workers[0])

    group, workers = start(2)
    with pytest.raises(PolicyError, match="a file holds more than tensors and plain values"):
        group.load(tmp_path / "policy")
    for worker in workers:
        ray.kill(worker)
