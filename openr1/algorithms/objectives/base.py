"""What an objective is: a pure function from model outputs and a batch to a weighted loss sum and named sums.

Policy, value, SFT and DPO training differ only in their objective; workers run all of them through the same
`optimizer_step`. A new objective is one file beside this one plus its test: a frozen dataclass (it is pickled and sent
to every rank) with the three attributes and the call of `Objective`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.token_ops import masked_sum

Outputs = TypeVar("Outputs", contravariant=True)
Sums = TypeVar("Sums", covariant=True, bound=tuple[float, ...])


class LossOutput(NamedTuple):
    """The result of an objective on one micro-batch."""

    loss: Tensor
    """Scalar with gradient, already weighted: adding it up over micro-batches and ranks gives the loss of the batch."""
    sums: Tensor
    """[K] float64, one sum per field of the objective's `sums_type`, detached."""


class Objective(Protocol[Outputs, Sums]):
    """A loss, and the statistics reported with it."""

    @property
    def rows_together(self) -> int:
        """Consecutive rows that must share a micro-batch: 1, or 2 where rows are compared in pairs."""

    @property
    def forward_kwargs(self) -> Mapping[str, Any]:
        """Keyword arguments of the model's forward pass, beyond the batch's inputs."""

    @property
    def sums_type(self) -> type[Sums]:
        """NamedTuple of floats that names the sums."""

    def __call__(self, outputs: Outputs, batch: TrainBatch) -> LossOutput:
        """The loss of a micro-batch. A fully masked batch gives 0, still connected to the model's outputs."""


@dataclass(frozen=True)
class StepStats(Generic[Sums]):
    """Statistics of one optimizer step, summed over micro-batches; over ranks too once `combine_ranks` was called."""

    loss: float
    """The weighted loss of the whole batch."""
    sums: Sums
    grad_norm: float = 0.0
    """Norm before clipping, the same on every rank; 0 if no step was applied."""
    learning_rate: float = 0.0
    """Learning rate that the step used, the same on every rank; 0 if no step was applied."""
    applied: bool = False
    """False if the loss was only evaluated."""


def combine_ranks(ranks: Sequence[StepStats[Any]]) -> StepStats[Any]:
    """Add up the losses and sums of all ranks; the other fields are equal everywhere and come from rank 0."""
    first = ranks[0]
    sums = type(first.sums)(*(sum(values) for values in zip(*(rank.sums for rank in ranks), strict=True)))
    loss = sum(rank.loss for rank in ranks)
    return StepStats(loss, sums, first.grad_norm, first.learning_rate, first.applied)


def stack_sums(mask: Tensor, *per_token: Tensor) -> Tensor:
    """Sums of [B, T] tensors over the mask, as [K] float64; detached."""
    return torch.stack([masked_sum(values.detach(), mask).double() for values in per_token])
