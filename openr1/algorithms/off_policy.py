"""Off-policy correction: responses were sampled from a slightly different distribution than the one that is trained.

The engine's log-probs differ from the trainer's by rounding and, with policy lag, by older weights. There are two
independent corrections: importance weights scale the loss of a token, rejection masks tokens. Both are computed from
w = exp(log_probs - rollout_log_probs) without gradient, where log_probs are the trainer's before the step's updates.
The counts that normalize the loss do not change.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LOG_LIMIT = 20.0
"""Bound on log-weights of sequences, so that none overflows."""


@dataclass(frozen=True)
class OffPolicyCorrection:
    """Both corrections with their settings; see the config section `off_policy`. The defaults correct nothing."""

    importance: str = "none"
    importance_max: float = 2.0
    rejection: str = "none"
    rejection_low: float = 0.5
    rejection_high: float = 5.0

    def __call__(
        self, log_probs: Float[Tensor, "B T"], rollout_log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Importance weights [B, T], and True [B, T] where a token stays in the loss; both without gradient."""
        tensors = log_probs, rollout_log_probs, mask
        return (
            importance_weights(*tensors, self.importance, self.importance_max),
            acceptance_mask(*tensors, self.rejection, self.rejection_low, self.rejection_high),
        )


NO_CORRECTION = OffPolicyCorrection()


def importance_weights(
    log_probs: Float[Tensor, "B T"],
    rollout_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    level: str,
    max_weight: float,
) -> Float[Tensor, "B T"]:
    """Truncated importance weights [B, T] (TIS): min(w, max_weight).

    Args:
        log_probs: [B, T], nats.
        rollout_log_probs: [B, T], nats.
        mask: [B, T], True on response tokens; values elsewhere are not read.
        level: `token`: a weight for each token. `sequence`: one for a response, the product of its tokens', which is
            unbiased but of high variance. `none`: all 1.
        max_weight: Bound above, > 0; 2 is usual.

    Reference:
        Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL Training (2025).
    """
    difference = _difference(log_probs, rollout_log_probs, mask)
    if level == "none":
        return torch.ones_like(difference)
    if level == "sequence":
        difference = difference.sum(-1, keepdim=True).clamp(-LOG_LIMIT, LOG_LIMIT).expand_as(difference)
    return difference.exp().clamp(max=max_weight)


def acceptance_mask(
    log_probs: Float[Tensor, "B T"],
    rollout_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    level: str,
    low: float,
    high: float,
) -> Bool[Tensor, "B T"]:
    """True [B, T] where low <= w <= high, and outside the mask.

    Args:
        log_probs: As above.
        rollout_log_probs: As above.
        mask: As above.
        level: `token` takes single tokens out (with importance weights of tokens: IcePop). `sequence` takes out all
            tokens of a response by the geometric mean of its weights, so that the bounds do not depend on its length.
            `none` keeps all.
        low: Bound below, in [0, 1).
        high: Bound above, > 1.

    Reference:
        IcePop: Ling team, arXiv:2510.18855; sequence masks: Liu et al., When Speed Kills Stability (2025).
    """
    difference = _difference(log_probs, rollout_log_probs, mask)
    if level == "none":
        return torch.ones_like(mask)
    if level == "sequence":
        difference = (difference.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)).expand_as(difference)
    weights = difference.exp()
    return ((weights >= low) & (weights <= high)) | ~mask


def _difference(
    log_probs: Float[Tensor, "B T"], rollout_log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Log of the weight of each token, without gradient; 0 outside the mask."""
    return torch.where(mask, (log_probs - rollout_log_probs).detach(), 0.0)
