"""Reward shaping, before advantages are computed. Rewards are [P, G]."""

from jaxtyping import Float, Num
from torch import Tensor


def clip_rewards(rewards: Float[Tensor, "P G"], low: float, high: float) -> Float[Tensor, "P G"]:
    """Rewards clipped to [low, high]. Applied first, so that outliers enter no mean or std."""
    return rewards.clamp(low, high)


def overlong_penalties(lengths: Num[Tensor, "P G"], generate_max_len: int, buffer_len: int) -> Float[Tensor, "P G"]:
    """Soft penalty for lengths [P, G] in tokens close to the limit: 0 up to the buffer zone, then down to -1.

    0 for length <= generate_max_len - buffer_len, else (generate_max_len - buffer_len - length) / buffer_len.

    Reference:
        DAPO, arXiv:2503.14476, equation 13.
    """
    return ((generate_max_len - buffer_len - lengths) / buffer_len).clamp(-1.0, 0.0)
