"""The objective of preference optimization: pairs of responses, the first preferred to the second."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import LossOutput
from openr1.algorithms.preference import PREFERENCE_LOSSES
from openr1.algorithms.token_ops import Entropy, TokenOutputs


class DpoSums(NamedTuple):
    """Sums over pairs; rewards are beta x the scores of `DpoObjective`."""

    loss: float
    correct: float
    """Pairs whose chosen reward exceeds the rejected one."""
    margin: float
    chosen_reward: float
    rejected_reward: float


@dataclass(frozen=True)
class DpoObjective:
    """Mean over pairs of a loss in `preference.PREFERENCE_LOSSES`, which says what is preferred by how much.

    Rows alternate chosen, rejected. The score of a response is, for `dpo`, the log-prob of all of it minus that under
    the reference, `ref_sequence_log_probs` [B] of the batch; for the others the mean log-prob of its tokens. Pairs
    without a response token (a placeholder on a rank that has no pairs left) count nothing.

    Attributes:
        beta: > 0; factor of the scores, of the odds for `orpo`.
        num_pairs: Pairs of the whole batch, over all ranks and micro-batches.
        loss: Name of the loss.
        target_margin: >= 0; by how much `simpo` wants the better response to be ahead.
    """

    beta: float
    num_pairs: int
    loss: str = "dpo"
    target_margin: float = 0.0

    rows_together: ClassVar[int] = 2
    sums_type: ClassVar[type[DpoSums]] = DpoSums
    forward_kwargs: Mapping[str, Entropy] = field(default_factory=dict, init=False)

    def __call__(self, outputs: TokenOutputs, batch: TrainBatch) -> LossOutput:
        """See `Objective`."""
        scores = self._scores(outputs.log_probs, batch)
        chosen, rejected = scores[::2], scores[1::2]
        loss, margin = PREFERENCE_LOSSES[self.loss](chosen, rejected, self.beta, self.target_margin)
        real = batch.response_mask.any(-1)[::2]
        values = (loss, (chosen > rejected).float(), margin, self.beta * chosen, self.beta * rejected)
        sums = torch.stack([torch.where(real, value.detach(), 0.0).sum().double() for value in values])
        return LossOutput(torch.where(real, loss, 0.0).sum() / self.num_pairs, sums)

    def _scores(self, log_probs: Tensor, batch: TrainBatch) -> Tensor:
        mask = batch.response_mask
        totals = torch.where(mask, log_probs, 0.0).sum(-1)
        if self.loss == "dpo":
            assert batch.ref_sequence_log_probs is not None
            return totals - batch.ref_sequence_log_probs.to(totals)
        # A placeholder has a mean like any other, so that nothing of it is infinite.
        return torch.where(mask.any(-1), totals / mask.sum(-1).clamp(min=1), -1.0)
