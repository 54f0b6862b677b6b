"""Losses per pair of responses, of which the first is preferred: DPO, SimPO and ORPO.

A loss takes the scores of both responses [N], with gradient, and returns `PairLoss`. What a score is depends on the
loss (`DpoObjective`): for dpo the log-prob of the whole response under the policy minus that under the reference, for
the others, which need no reference, the mean log-prob of its tokens; nats in all cases.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LARGEST_MEAN = -1e-6
"""Of a mean log-prob, in `orpo_loss`: the odds of a response that is certain are infinite."""


class PairLoss(NamedTuple):
    """Of N pairs."""

    loss: Float[Tensor, " N"]
    margin: Float[Tensor, " N"]
    """What the sigmoid is taken of."""


def dpo_loss(chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], beta: float, target_margin: float) -> PairLoss:
    """-log sigmoid(beta * (chosen - rejected)), the sigmoid loss of DPO. `target_margin` has no effect.

    Reference:
        Rafailov et al., Direct Preference Optimization, arXiv:2305.18290, equation 7.
    """
    margin = beta * (chosen - rejected)
    return PairLoss(-functional.logsigmoid(margin), margin)


def simpo_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], beta: float, target_margin: float
) -> PairLoss:
    """-log sigmoid(beta * (chosen - rejected) - target_margin), of means over tokens: no longer response is preferred.

    Reference:
        Meng et al., SimPO: Simple Preference Optimization with a Reference-Free Reward, arXiv:2405.14734.
    """
    margin = beta * (chosen - rejected) - target_margin
    return PairLoss(-functional.logsigmoid(margin), margin)


def orpo_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], beta: float, target_margin: float
) -> PairLoss:
    """-chosen - beta * log sigmoid(log odds(chosen) - log odds(rejected)): SFT on the better response, and its odds.

    The odds of a mean log-prob x are exp(x) / (1 - exp(x)); x is taken as `LARGEST_MEAN` at most. `target_margin` has
    no effect.

    Reference:
        Hong et al., ORPO: Monolithic Preference Optimization without Reference Model, arXiv:2403.07691.
    """
    margin = _log_odds(chosen) - _log_odds(rejected)
    return PairLoss(-chosen - beta * functional.logsigmoid(margin), margin)


def _log_odds(mean: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    mean = mean.clamp(max=LARGEST_MEAN)
    return mean - (-mean.expm1()).log()


PreferenceLoss = Callable[[Tensor, Tensor, float, float], PairLoss]
PREFERENCE_LOSSES: dict[str, PreferenceLoss] = {"dpo": dpo_loss, "simpo": simpo_loss, "orpo": orpo_loss}
