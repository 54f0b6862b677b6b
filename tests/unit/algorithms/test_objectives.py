"""What every objective promises to the loop and the ranks that run it; a new one only has to be added to CASES."""

import pickle
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from openr1.algorithms import objectives
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.objectives.base import Objective, StepStats, combine_ranks
from openr1.algorithms.objectives.dpo import DpoObjective
from openr1.algorithms.objectives.policy import PolicyObjective
from openr1.algorithms.objectives.sft import SftObjective
from openr1.algorithms.objectives.value import ValueObjective
from openr1.algorithms.off_policy import OffPolicyCorrection
from openr1.algorithms.optimizer_step import optimizer_step
from openr1.algorithms.token_ops import TokenOutputs
from openr1.workers.micro_batches import cut_into_micro_batches, plan_batch
from tests.unit.algorithms.plain import Bigram, PlainBackend, ValueTable, fill_outside, make_batch


@dataclass(frozen=True)
class Case:
    """An objective, set so that every part of it counts, and a model of the kind that it trains."""

    objective: Objective[Any, Any]
    model: Callable[[], nn.Module] = Bigram


CORRECTION = OffPolicyCorrection(importance="token", importance_max=1.2, rejection="token", rejection_high=1.5)
CASES = {
    "policy": Case(PolicyObjective("ppo", ClipBounds(0.2, 0.3), 0.1, entropy_coef=0.05, off_policy=CORRECTION)),
    "value": Case(ValueObjective(clip=0.4), ValueTable),
    "sft": Case(SftObjective(z_loss_coef=0.01)),
    "dpo": Case(DpoObjective(beta=0.3, num_pairs=4)),
    "simpo": Case(DpoObjective(beta=2.0, num_pairs=4, loss="simpo", target_margin=0.5)),
    "orpo": Case(DpoObjective(beta=0.3, num_pairs=4, loss="orpo")),
}
UNITS = {"one": [[0, 1, 2, 3]], "several": [[2], [0, 3], [1]], "each": [[3], [1], [2], [0]]}
"""Ways to cut a batch of eight rows, in units of two, which any objective here may be cut in."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Each objective in turn."""
    return CASES[request.param]


def run(
    case: Case, micro_batches: Sequence[TrainBatch], num_ranks: int = 1, apply: bool = True
) -> tuple[PlainBackend, StepStats[Any]]:
    """One step from the same initial weights."""
    backend = PlainBackend(case.model())
    return backend, optimizer_step(backend, micro_batches, case.objective, num_ranks, apply)


def check_same(stats: StepStats[Any], expected: StepStats[Any]) -> None:
    """Loss and sums are equal up to rounding; the sums have their names."""
    assert stats.loss == pytest.approx(expected.loss, rel=1e-5)
    assert stats.sums._asdict() == pytest.approx(expected.sums._asdict(), rel=1e-5, abs=1e-6)


def test_every_objective_is_tested() -> None:
    """Catches a new objective that keeps none of these promises because nobody asked it to."""
    modules = {module.name for module in pkgutil.iter_modules(objectives.__path__)} - {"base"}
    assert {type(case.objective).__module__.rpartition(".")[2] for case in CASES.values()} == modules


@pytest.mark.parametrize("placeholders", [0, 2])
@pytest.mark.parametrize("cut", UNITS)
def test_cutting_changes_nothing(case: Case, cut: str, placeholders: int) -> None:
    """Catches a mean per micro-batch, a step after each of them, sums that leave one out, placeholders that count."""
    batch = make_batch()
    whole, expected = run(case, [batch])
    assert whole.calls == ["backward", "step"]
    assert float(whole.gradient.abs().max()) > 1e-3, "nothing trains; the test has no power"
    micro_batches = [batch.select([2 * unit + side for unit in units for side in (0, 1)]) for units in UNITS[cut]]
    micro_batches += [batch.placeholder(case.objective.rows_together)] * placeholders
    backend, stats = run(case, micro_batches)
    assert backend.calls == ["backward"] * len(micro_batches) + ["step"]
    torch.testing.assert_close(backend.gradient, whole.gradient, rtol=1e-5, atol=1e-6)
    check_same(stats, expected)


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_sharing_over_ranks_changes_nothing(case: Case, num_ranks: int) -> None:
    """Catches a mean per rank, a factor of the ranks that is missing or in the reported loss, and a pair torn apart.

    Of five ranks at least one has no pair, and takes part with placeholders.
    """
    batch, together = make_batch(), case.objective.rows_together
    whole, expected = run(case, [batch])
    plan = plan_batch(batch, num_ranks, 24, hidden_size=8, rows_together=together)
    assert len(plan[0]) > 1 or num_ranks == 5
    shares = cut_into_micro_batches(batch, plan, together)
    ranks = [run(case, share, num_ranks) for share in shares]
    # What data parallelism does with gradients: it averages them.
    mean = torch.stack([backend.gradient for backend, _ in ranks]).mean(0)
    torch.testing.assert_close(mean, whole.gradient, rtol=1e-5, atol=1e-6)
    check_same(combine_ranks([stats for _, stats in ranks]), expected)


def test_evaluating_trains_nothing(case: Case) -> None:
    """Catches an evaluation that goes backward, makes a step, keeps a graph, or reports other numbers than a step."""
    batch = make_batch()
    micro_batches = [batch.select(range(4)), batch.select(range(4, 8))]
    backend, stats = run(case, micro_batches, apply=False)
    assert backend.calls == []
    assert backend.graphs == [False, False]
    for parameter, before in zip(backend.model.parameters(), case.model().parameters(), strict=True):
        assert torch.equal(parameter, before)
        assert parameter.grad is None
    assert (stats.applied, stats.grad_norm, stats.learning_rate) == (False, 0.0, 0.0)
    trained, expected = run(case, micro_batches)
    assert trained.graphs == [True, True]
    assert expected.applied
    check_same(stats, expected)


def test_it_travels_to_every_rank(case: Case) -> None:
    """Catches an objective that cannot be pickled, arrives as another, or can be changed on the way."""
    arrived = pickle.loads(pickle.dumps(case.objective))
    assert arrived == case.objective
    assert (arrived.rows_together, dict(arrived.forward_kwargs)) == (
        case.objective.rows_together,
        dict(case.objective.forward_kwargs),
    )
    batch = make_batch()
    _, stats = run(replace(case, objective=arrived), [batch])
    assert stats == run(case, [batch])[1]
    with pytest.raises(FrozenInstanceError):
        arrived.rows_together = 3


def test_masked_batch_counts_nothing_and_stays_connected(case: Case) -> None:
    """Catches a rank without rows that has no backward pass to make, for which the others wait, or that trains."""
    placeholder = make_batch().placeholder(4)
    outputs = case.model()(*placeholder.inputs, **case.objective.forward_kwargs)
    assert case.objective(outputs, placeholder).loss.requires_grad
    backend, stats = run(case, [placeholder])
    assert stats.loss == 0
    assert not any(stats.sums)
    assert backend.gradients
    assert not backend.gradient.any()


def test_nothing_is_read_outside_the_mask(case: Case) -> None:
    """Catches a sum over padding, prompts or inserted tokens, whatever stands there."""
    batch = make_batch()
    # Tokens inside responses that do not train, as a tool's answer.
    inserted = batch.response_mask & (torch.arange(batch.input_ids.shape[1]) % 4 == 3)
    batch = replace(batch, response_mask=batch.response_mask & ~inserted)
    clean, expected = run(case, [fill_outside(batch, 0.0)])
    filled, stats = run(case, [fill_outside(batch, 1.5)])
    torch.testing.assert_close(filled.gradient, clean.gradient)
    check_same(stats, expected)
    _, stats = run(case, [fill_outside(batch, float("nan"))], apply=False)
    check_same(stats, expected)


def test_statistics_are_detached_and_exact(case: Case) -> None:
    """Catches sums that keep the graph of a whole step in memory, lose digits in float32, or lack a name."""
    batch = make_batch()
    result = case.objective(case.model()(*batch.inputs, **case.objective.forward_kwargs), batch)
    assert result.loss.shape == ()
    assert not result.sums.requires_grad
    assert result.sums.dtype == torch.float64
    assert len(result.sums) == len(case.objective.sums_type._fields)


def test_the_gradient_is_that_of_the_reported_loss(case: Case) -> None:
    """Catches a factor on one of the two only, and a term that is reported and not trained, or trained in part."""
    batch = make_batch()
    with torch.no_grad():
        outputs = case.model()(*batch.inputs, **case.objective.forward_kwargs)
    tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)

    def loss(*values: Tensor) -> Tensor:
        given: Any = values[0] if isinstance(outputs, Tensor) else TokenOutputs(*values)
        return case.objective(given, batch).loss

    assert torch.autograd.gradcheck(loss, [tensor.double().requires_grad_() for tensor in tensors])
