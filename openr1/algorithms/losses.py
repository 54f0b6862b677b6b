"""Policy losses per token. Reduction is the caller's: sums over tokens divided by a global count."""

import torch
from torch import Tensor


def clipped_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, eps_clip_low: float, eps_clip_high: float
) -> tuple[Tensor, Tensor]:
    """-min(ratio * A, clip(ratio, 1 - eps_clip_low, 1 + eps_clip_high) * A), ratio = exp(log_probs - old_log_probs).

    Args:
        log_probs: [B, T], current weights, with gradient.
        old_log_probs: [B, T], weights before this batch's updates; the same values, detached, at the first update.
        advantages: [B, T], constant over a response.
        eps_clip_low: In (0, 1): the ratio's bound below is 1 - eps_clip_low.
        eps_clip_high: > 0: the ratio's bound above is 1 + eps_clip_high.

    Returns:
        The loss per token [B, T], and `clipped` [B, T] bool: True where the bound, not the ratio, gave the loss (so the
        token has no gradient).

    Reference:
        Schulman et al., PPO, arXiv:1707.06347, equation 7; separate bounds as in DAPO, arXiv:2503.14476, section 3.1.
    """
    ratio = (log_probs - old_log_probs).exp()
    unclipped = ratio * advantages
    bounded = ratio.clamp(1 - eps_clip_low, 1 + eps_clip_high) * advantages
    return -torch.minimum(unclipped, bounded), bounded < unclipped
