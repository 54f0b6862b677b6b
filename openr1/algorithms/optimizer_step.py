"""One optimizer step over micro-batches, the same loop for every objective. `TrainBackend` is DeepSpeed."""

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import Objective, StepStats

Sums = TypeVar("Sums", bound=tuple[float, ...])


class TrainBackend(Protocol):
    """What a step needs of a training backend (`workers.backend`); examples and tests bring plain PyTorch."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, **kwargs: Any) -> Any:
        """The model's outputs for response tokens."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss`, averaged over ranks."""

    def step(self) -> None:
        """Clip the accumulated gradient, apply it and clear it."""


def optimizer_step(
    backend: TrainBackend,
    micro_batches: Iterable[TrainBatch],
    objective: Objective[Any, Sums],
    num_ranks: int = 1,
    apply: bool = True,
) -> StepStats[Sums]:
    """Accumulate the gradient of this rank's micro-batches and make one optimizer step.

    Losses are weighted by counts over the whole batch, so they are summed, never averaged: 1 rank x 1 micro-batch and
    2 ranks x 4 micro-batches give the same gradient.

    Args:
        backend: Averages gradients over ranks, which the factor `num_ranks` undoes.
        micro_batches: This rank's, in order, at least one. Every rank must bring the same number: forward and backward
            passes are collectives.
        objective: The loss.
        num_ranks: Ranks that share the batch.
        apply: False only evaluates the loss: no backward pass, no step.

    Returns:
        Statistics of this rank, without gradient norm and learning rate; `combine_ranks` adds them up.
    """
    totals: Tensor | None = None
    for batch in micro_batches:
        with torch.set_grad_enabled(apply):
            result = objective(backend(*batch.inputs, **objective.forward_kwargs), batch)
        if apply:
            backend.backward(result.loss * num_ranks)
        values = torch.cat([result.loss.detach().double()[None], result.sums])
        totals = values if totals is None else totals + values
    if apply:
        backend.step()
    assert totals is not None
    # One transfer to the host per step, not one per statistic and micro-batch.
    loss, *sums = totals.tolist()
    return StepStats(loss, objective.sums_type(*sums), applied=apply)
