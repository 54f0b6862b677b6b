"""The policy-gradient objective: clipped surrogate, KL term, entropy bonus and off-policy correction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.kl import KL_ESTIMATORS, k3
from openr1.algorithms.losses import ClipBounds, find_policy_loss
from openr1.algorithms.objectives.base import LossOutput, stack_sums
from openr1.algorithms.off_policy import NO_CORRECTION, OffPolicyCorrection
from openr1.algorithms.token_ops import Entropy, TokenOutputs, masked_sum
from openr1.errors import TrainingError


class PolicySums(NamedTuple):
    """Sums over the response tokens that train; divide by `tokens` for means.

    The mismatch compares the trainer's log-probs under the weights that sampled with the engine's: absolute difference
    (nats), k3 estimate of KL(engine || trainer) (nats), the importance weight and its square.
    """

    tokens: float
    mismatch_abs: float
    mismatch_kl: float
    weight: float
    weight_squared: float
    entropy: float
    kl: float
    clipped: float
    importance: float
    rejected: float


@dataclass(frozen=True)
class PolicyObjective:
    """Sum over tokens of loss_weights x (corrected policy loss + kl_coef KL - entropy_coef entropy).

    The batch needs `advantages` and `loss_weights`; the weights are made from the whole batch, so cutting it into
    micro-batches does not change the gradient. Without `old_log_probs` the ratio is 1 (first update of a step); without
    `ref_log_probs` there is no KL term.

    Attributes:
        policy_loss: A name in `losses.LOSSES`, or the import path of a function with the same signature.
        bounds: Clip range of the probability ratio.
        kl_coef: Weight of the KL term; 0 if KL is not part of the loss (it is then still reported).
        kl_estimator: A name in `kl.KL_ESTIMATORS`.
        entropy_coef: Weight of the entropy bonus.
        off_policy: Importance weights and rejection for engine/trainer mismatch and policy lag.
    """

    policy_loss: str
    bounds: ClipBounds
    kl_coef: float
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    off_policy: OffPolicyCorrection = NO_CORRECTION

    rows_together: ClassVar[int] = 1
    sums_type: ClassVar[type[PolicySums]] = PolicySums

    @property
    def forward_kwargs(self) -> Mapping[str, Entropy]:
        """Entropy is always reported; a gradient through it costs a second pass over the logits."""
        return {"entropy": "gradient" if self.entropy_coef > 0 else "value"}

    def __call__(self, outputs: TokenOutputs, batch: TrainBatch) -> LossOutput:
        """See `Objective`."""
        assert batch.advantages is not None
        assert batch.loss_weights is not None
        log_probs, entropy, _ = outputs
        mask = batch.response_mask
        old_log_probs = log_probs.detach() if batch.old_log_probs is None else batch.old_log_probs
        policy_loss = find_policy_loss(self.policy_loss)
        loss, clipped = policy_loss(log_probs, old_log_probs, batch.advantages, mask, self.bounds)
        # A custom loss of another shape would broadcast without an error.
        if loss.shape != mask.shape or clipped.shape != mask.shape:
            raise TrainingError(
                f"algorithm.policy_loss {self.policy_loss} returned {list(loss.shape)} and {list(clipped.shape)}; loss "
                f"and clipped must be per token, {list(mask.shape)}"
            )
        weights, kept = self.off_policy(old_log_probs, batch.rollout_log_probs, mask)
        loss = loss * weights * kept
        kl = torch.zeros_like(loss)
        if batch.ref_log_probs is not None:
            kl = KL_ESTIMATORS[self.kl_estimator](log_probs, batch.ref_log_probs)
            loss = loss + self.kl_coef * kl
        loss = loss - self.entropy_coef * entropy
        per_token = (*_mismatch(old_log_probs, batch), entropy, kl, clipped.float(), weights, (~kept).float())
        sums = stack_sums(mask, torch.ones_like(loss), *per_token)
        return LossOutput(masked_sum(loss * batch.loss_weights, mask), sums)


def _mismatch(log_probs: Tensor, batch: TrainBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four mismatch terms of `PolicySums` per token [B, T]."""
    difference = log_probs - batch.rollout_log_probs
    weight = difference.exp()
    return difference.abs(), k3(batch.rollout_log_probs, log_probs), weight, weight.square()
