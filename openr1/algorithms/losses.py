"""Policy losses and the value loss, per token. Callers reduce them with `aggregation.loss_weights`.

A policy loss takes tensors [B, T]: log-probs under the current weights, with gradient; log-probs under the weights
before this batch's updates (the same values, detached, at the first update); advantages; the response mask. It returns
the loss per token [B, T], and `clipped` [B, T] bool: True where a bound determined the loss. The ratio is
exp(log_probs - old_log_probs).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from openr1.runtime.import_path import import_function


@dataclass(frozen=True)
class ClipBounds:
    """Clip range of the probability ratio.

    Attributes:
        low: In (0, 1): the bound below is 1 - low.
        high: > 0: the bound above is 1 + high.
        dual: > 1: for negative advantages the loss is at most dual x |A|, however large the ratio; None: unbounded.
        soft: > 0: how fast the gate of `soft_gated_surrogate` closes, for positive and for other advantages.
    """

    low: float
    high: float
    dual: float | None = None
    soft: tuple[float, float] = (1.0, 1.05)

    def clamp(self, ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The ratio within the bounds."""
        return ratio.clamp(1 - self.low, 1 + self.high)


def clipped_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    bounds: ClipBounds,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """-min(ratio A, clip(ratio) A), and with `bounds.dual` no more than dual |A| where A < 0.

    A clipped token has no gradient.

    Reference:
        Schulman et al., PPO, arXiv:1707.06347, equation 7; separate bounds as in DAPO, arXiv:2503.14476, section 3.1;
        dual clip: Ye et al., arXiv:1912.09729, equation 5.
    """
    return _surrogate((log_probs - old_log_probs).exp(), advantages, bounds)


def sequence_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    bounds: ClipBounds,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The same with one ratio per response, the geometric mean of its tokens' ratios, for all its tokens (GSPO).

    The clip range is much smaller than for token ratios: 3e-4 and 4e-4 in the paper. With `sequence` aggregation this
    is the paper's objective.

    Reference:
        Zheng et al., Group Sequence Policy Optimization, arXiv:2507.18071, equations 5 to 7.
    """
    difference = torch.where(mask, log_probs - old_log_probs, 0.0)
    mean = difference.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return _surrogate(mean.exp().expand_as(log_probs), advantages, bounds)


def clipped_weight_loss(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    bounds: ClipBounds,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """-clip(ratio) A log_probs, without gradient through the ratio (CISPO): a clipped token keeps its gradient.

    Reference:
        MiniMax-M1, arXiv:2506.13585, equation 4.
    """
    ratio = (log_probs - old_log_probs).exp().detach()
    bounded = bounds.clamp(ratio)
    return -bounded * advantages * log_probs, bounded != ratio


def geometric_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    bounds: ClipBounds,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """-A x the geometric mean, over the response, of its tokens' ratios, each clipped before the mean (GMPO).

    A ratio is clipped as in `clipped_surrogate`: above where A > 0, below where A < 0. A clipped token has no gradient;
    the other tokens of the response keep theirs. The range is wider than for PPO, exp(-0.4) to exp(0.4) in the paper.
    With `sequence` aggregation this is the paper's objective. A response without tokens has the mean 1.

    Reference:
        Zhao et al., Geometric-Mean Policy Optimization, arXiv:2507.20673.
    """
    difference = torch.where(mask, log_probs - old_log_probs, 0.0)
    bounded = difference.clamp(math.log1p(-bounds.low), math.log1p(bounds.high))
    kept = torch.where(advantages > 0, torch.minimum(difference, bounded), torch.maximum(difference, bounded))
    mean = kept.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return -mean.exp() * advantages, kept != difference


def soft_gated_surrogate(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    bounds: ClipBounds,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """-(4 / t) sigmoid(t (ratio - 1)) A, with t from `bounds.soft` by the sign of A (SAPO): no token is clipped.

    The gradient of PPO's ratio times 4 sigmoid (1 - sigmoid), which is 1 at ratio 1 and falls smoothly on both sides,
    faster for the larger t.

    Reference:
        Gao et al., Soft Adaptive Policy Optimization, arXiv:2511.20347.
    """
    ratio = (log_probs - old_log_probs).exp()
    positive, other = bounds.soft
    temperature = torch.where(advantages > 0, positive, other)
    gate = torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature
    return -gate * advantages, torch.zeros_like(mask)


def _surrogate(
    ratio: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"], bounds: ClipBounds
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    unclipped = ratio * advantages
    bounded = bounds.clamp(ratio) * advantages
    objective, clipped = torch.minimum(unclipped, bounded), bounded < unclipped
    if bounds.dual is not None:
        floor = torch.where(advantages < 0, bounds.dual * advantages, -torch.inf)
        objective, clipped = torch.maximum(objective, floor), clipped | (floor > objective)
    return -objective, clipped


PolicyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, ClipBounds], tuple[Tensor, Tensor]]
LOSSES: dict[str, PolicyLoss] = {
    "ppo": clipped_surrogate,
    "gspo": sequence_surrogate,
    "cispo": clipped_weight_loss,
    "gmpo": geometric_surrogate,
    "sapo": soft_gated_surrogate,
}


def find_policy_loss(name: str) -> PolicyLoss:
    """The policy loss of a name in `LOSSES`, or of an import path (`package.module:name`, `/folder/file.py:name`).

    Raises:
        ConfigError: The import path cannot be resolved to a function.
    """
    return LOSSES[name] if name in LOSSES else import_function(name)


def value_loss(
    values: Float[Tensor, "B T"], old_values: Float[Tensor, "B T"], returns: Float[Tensor, "B T"], clip: float | None
) -> Float[Tensor, "B T"]:
    """0.5 x squared error of each value; with `clip`, that of the clipped value where it is the larger one.

    The clipped value lies within `clip` of the old one. A value that has gone further towards its return has no
    gradient; one that has gone further away from it has.

    Args:
        values: [B, T], in units of the reward, with gradient.
        old_values: [B, T], before this batch's updates.
        returns: [B, T], the regression targets.
        clip: > 0, in units of the reward; None: no bound.

    Reference:
        As in PPO of OpenAI's baselines; Engstrom et al., Implementation Matters in Deep RL, arXiv:2005.12729, name it
        as one of the optimizations that the paper of PPO leaves out.
    """
    loss = (values - returns).square()
    if clip is not None:
        bounded = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (bounded - returns).square())
    return 0.5 * loss
