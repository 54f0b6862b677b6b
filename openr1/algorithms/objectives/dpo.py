"""The objective of direct preference optimization: pairs of responses, the first preferred to the second."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import preference_loss
from openr1.algorithms.objectives.base import LossOutput
from openr1.algorithms.token_ops import Entropy, TokenOutputs


class DpoSums(NamedTuple):
    """Sums over pairs; rewards are beta x (policy - reference log-prob of the whole response)."""

    loss: float
    correct: float
    """Pairs whose chosen reward exceeds the rejected one."""
    margin: float
    chosen_reward: float
    rejected_reward: float


@dataclass(frozen=True)
class DpoObjective:
    """Mean over pairs of -log sigmoid(beta margin); see `losses.preference_loss`.

    Rows alternate chosen, rejected. The batch needs `ref_sequence_log_probs` [B]. Pairs without a response token (a
    placeholder on a rank that has no pairs left) count nothing.

    Attributes:
        beta: > 0; strength of the pull towards the reference.
        num_pairs: Pairs of the whole batch, over all ranks and micro-batches.
    """

    beta: float
    num_pairs: int

    rows_together: ClassVar[int] = 2
    sums_type: ClassVar[type[DpoSums]] = DpoSums
    forward_kwargs: Mapping[str, Entropy] = field(default_factory=dict, init=False)

    def __call__(self, outputs: TokenOutputs, batch: TrainBatch) -> LossOutput:
        """See `Objective`."""
        assert batch.ref_sequence_log_probs is not None
        mask = batch.response_mask
        gained = torch.where(mask, outputs.log_probs, 0.0).sum(-1) - batch.ref_sequence_log_probs.to(outputs.log_probs)
        chosen, rejected = gained[::2], gained[1::2]
        loss, margin = preference_loss(chosen, rejected, self.beta)
        real = mask.any(-1)[::2]
        values = (loss, (margin > 0).float(), margin, self.beta * chosen, self.beta * rejected)
        sums = torch.stack([torch.where(real, value.detach(), 0.0).sum().double() for value in values])
        return LossOutput(torch.where(real, loss, 0.0).sum() / self.num_pairs, sums)
