"""The objective of supervised fine-tuning: negative log-likelihood of response tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import LossOutput, stack_sums
from openr1.algorithms.token_ops import Entropy, TokenOutputs, masked_sum


class SftSums(NamedTuple):
    """Sums over response tokens."""

    nll: float
    """Negative log-likelihood, nats, without the z-loss."""


@dataclass(frozen=True)
class SftObjective:
    """Sum over tokens of loss_weights x (-log p + z_loss_coef logsumexp^2).

    With token aggregation of the loss weights this is the mean over all response tokens of the batch.

    Attributes:
        z_loss_coef: Weight of the squared log-normalizer of the softmax (Chowdhery et al., PaLM, arXiv:2204.02311,
            section 5); 0 turns it off.
    """

    z_loss_coef: float = 0.0

    rows_together: ClassVar[int] = 1
    sums_type: ClassVar[type[SftSums]] = SftSums
    forward_kwargs: Mapping[str, Entropy] = field(default_factory=dict, init=False)

    def __call__(self, outputs: TokenOutputs, batch: TrainBatch) -> LossOutput:
        """See `Objective`."""
        assert batch.loss_weights is not None
        mask = batch.response_mask
        loss = self.z_loss_coef * outputs.logsumexp.square() - outputs.log_probs
        return LossOutput(masked_sum(loss * batch.loss_weights, mask), stack_sums(mask, -outputs.log_probs))
