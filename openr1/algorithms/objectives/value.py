"""The critic's objective: squared error of values, optionally clipped."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import value_loss
from openr1.algorithms.objectives.base import LossOutput, stack_sums
from openr1.algorithms.token_ops import masked_sum


class ValueSums(NamedTuple):
    """Sums over the response tokens that train."""

    tokens: float


@dataclass(frozen=True)
class ValueObjective:
    """Sum over tokens of loss_weights x `value_loss`; the batch needs `values`, `returns` and `loss_weights`.

    Attributes:
        clip: How far a value may move from the one before this step, in reward units; None: unbounded.
    """

    clip: float | None

    rows_together: ClassVar[int] = 1
    sums_type: ClassVar[type[ValueSums]] = ValueSums
    forward_kwargs: Mapping[str, object] = field(default_factory=dict, init=False)

    def __call__(self, outputs: Tensor, batch: TrainBatch) -> LossOutput:
        """See `Objective`; `outputs` are values [B, T]."""
        assert batch.values is not None
        assert batch.returns is not None
        assert batch.loss_weights is not None
        mask = batch.response_mask
        loss = value_loss(outputs, batch.values, batch.returns, self.clip)
        return LossOutput(masked_sum(loss * batch.loss_weights, mask), stack_sums(mask, torch.ones_like(loss)))
