"""Advantages of tokens from a critic's values. Tensors are [B, T]; index t describes token t.

The value V[t] is that of the state before token t: the expected return from there on, in units of the reward. A
response consists of the tokens in the mask, in order; inserted tokens between them, which are not in the mask, are
skipped. Nothing outside the mask is read, and results are 0 there.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def token_level_rewards(
    rewards: Float[Tensor, " B"], kl_penalty: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Rewards [B, T] of tokens: -kl_penalty [B, T], plus the response's reward [B] at its last token in the mask.

    0 everywhere for a row that is fully masked.
    """
    last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    return torch.where(last, rewards[:, None] - kl_penalty, -kl_penalty) * mask


def length_adaptive_lambda(mask: Bool[Tensor, "B T"], alpha: float) -> Float[Tensor, " B"]:
    """Lambda [B] of each response, 1 - 1 / (alpha x its tokens): the longer it is, the nearer to 1. At least 0.

    Errors of values count over about `alpha` times the length of the response, whatever that is.

    Reference:
        Yue et al., VAPO, arXiv:2504.05118; alpha is 0.05 there.
    """
    return (1 - 1 / (alpha * mask.sum(-1).clamp(min=1).double())).clamp(min=0)


def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    gamma: float,
    lambd: float | Float[Tensor, " B"],
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Generalized advantage estimates, and the returns that values are to become.

    delta[t] = r[t] + gamma V[t + 1] - V[t], A[t] = delta[t] + gamma lambd A[t + 1], return = A + V.
    t + 1 is the next token in the mask. V and A are 0 after the last one: truncated responses are not bootstrapped, as
    in OpenRLHF and TRL.

    Args:
        rewards: Of tokens; see `token_level_rewards`.
        values: Of the state before each token.
        mask: True on response tokens.
        gamma: Discount, in (0, 1].
        lambd: In [0, 1], one for all or one for each row. 1: A is the discounted sum of rewards from t on, minus V[t].
            0: A is delta.

    Returns:
        Advantages, as they are (no mean is taken off), and returns; float32, computed in float64.

    Example:
        >>> mask = torch.tensor([[False, True, True]])
        >>> gae(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.5, 0.25]]), mask, 1.0, 1.0)
        (tensor([[0.0000, 0.5000, 0.7500]]), tensor([[0., 1., 1.]]))

    Reference:
        Schulman et al., arXiv:1506.02438, equation 16.
    """
    rewards, values = (torch.where(mask, tensor.double(), 0.0) for tensor in (rewards, values))
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = (delta + gamma * lambd * next_advantage) * mask[:, t]
        next_advantage = torch.where(mask[:, t], advantages[:, t], next_advantage)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
    return advantages.float(), (advantages + values).float()


def explained_variance(values: Float[Tensor, "B T"], returns: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> float:
    """1 - variance of (return - value) / variance of the return, over tokens: 1 is perfect, 0 as good as a constant.

    0 where all returns are equal, up to rounding, or there is none.
    """
    if not mask.any():
        return 0.0
    before, after = values[mask].double(), returns[mask].double()
    spread, size = float(after.var(unbiased=False)), float((before.square() + after.square()).mean())
    return 1 - float((after - before).var(unbiased=False)) / spread if spread > 1e-12 * size else 0.0
