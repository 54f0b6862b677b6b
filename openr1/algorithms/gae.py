"""Advantages of tokens from a critic's values. Tensors are [B, T]; index t describes token t.

The value V[t] is that of the state before token t: what the critic expects from there on, in units of the reward. A
response's tokens stand side by side, as `response_mask` says; nothing outside it is read, and results are 0 there.
"""

import torch
from torch import Tensor


def token_rewards(rewards: Tensor, costs: Tensor, mask: Tensor) -> Tensor:
    """Rewards [B, T] of tokens: -costs [B, T], and the response's reward [B] at its last token.

    0 everywhere for a row that is masked.
    """
    last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return torch.where(last, rewards[:, None] - costs, -costs) * mask


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lambd: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates, and the returns that values are to become.

    delta[t] = r[t] + gamma V[t + 1] - V[t], A[t] = delta[t] + gamma lambd A[t + 1], return = A + V.
    V and A are 0 after the last token, for responses that the length limit ended, too: what might have come counts as
    nothing, as with OpenRLHF and TRL.

    Args:
        rewards: Of tokens; see `token_rewards`.
        values: Of the state before each token.
        mask: True on response tokens.
        gamma: Discount, in (0, 1].
        lambd: In [0, 1]. 1: A is the discounted sum of rewards from t on, minus V[t]. 0: A is delta.

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
        next_advantage = (delta + gamma * lambd * next_advantage) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages.float(), (advantages + values).float()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - variance of (return - value) / variance of the return, over tokens: 1 is perfect, 0 as good as a constant.

    0 where all returns are equal, up to rounding, or there is none.
    """
    if not mask.any():
        return 0.0
    before, after = values[mask].double(), returns[mask].double()
    spread, size = float(after.var(unbiased=False)), float((before.square() + after.square()).mean())
    return 1 - float((after - before).var(unbiased=False)) / spread if spread > 1e-12 * size else 0.0
