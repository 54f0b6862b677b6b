"""What becomes of scores' rewards before advantages are made of them. All read and return rewards [P, G]."""

from jaxtyping import Float, Num
from torch import Tensor


def clip_rewards(rewards: Float[Tensor, "P G"], low: float, high: float) -> Float[Tensor, "P G"]:
    """Rewards within [low, high]. Comes first: an outlier must not enter any mean or deviation."""
    return rewards.clamp(low, high)


def overlong_penalties(lengths: Num[Tensor, "P G"], generate_max_len: int, buffer_len: int) -> Float[Tensor, "P G"]:
    """Soft penalty for lengths [P, G] in tokens that come near the limit: 0 up to the buffer, then down to -1.

    0 for length <= generate_max_len - buffer_len, else (generate_max_len - buffer_len - length) / buffer_len.

    Reference:
        DAPO, arXiv:2503.14476, equation 13.
    """
    return ((generate_max_len - buffer_len - lengths) / buffer_len).clamp(-1.0, 0.0)


def adapt_kl_coef(coef: float, kl: float, target: float, num_responses: int, horizon: int) -> float:
    """The weight of the KL term for the next step: raised where `kl` is above `target`, lowered where it is below.

    coef (1 + clip(kl / target - 1, -0.2, 0.2) x num_responses / horizon).

    Args:
        coef: Of this step.
        kl: Mean over response tokens, nats.
        target: > 0, nats.
        num_responses: Of the step.
        horizon: Responses over which the weight changes by 20 % at most.

    Reference:
        Ziegler et al., arXiv:1909.08593, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * num_responses / horizon)
