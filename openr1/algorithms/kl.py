"""Estimators of KL(policy || other) per token, from log-probs of tokens that the policy sampled.

With d = other - policy, in nats, of any shape: 0 where both are equal. The gradient flows through the policy's.

Reference: Schulman, Approximating KL Divergence (2020), http://joschu.net/blog/kl-approx.html.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor


def k1(log_probs: Float[Tensor, "*shape"], other_log_probs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """-d: unbiased, of either sign. As a term of the loss its gradient is 0 on average."""
    return log_probs - other_log_probs


def k2(log_probs: Float[Tensor, "*shape"], other_log_probs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """d^2 / 2: biased, never negative. As a term of the loss its gradient is that of the KL divergence, on average."""
    return (other_log_probs - log_probs).square() / 2


def k3(log_probs: Float[Tensor, "*shape"], other_log_probs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(d) - d - 1: unbiased where the policy sampled, and never negative.

    Reference:
        As the KL term of GRPO in Shao et al., arXiv:2402.03300, equation 4.
    """
    difference = other_log_probs - log_probs
    return difference.expm1() - difference


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def adapt_kl_coef(coef: float, kl: float, target: float, num_responses: int, horizon: int) -> float:
    """KL coefficient of the next step: raised if `kl` is above `target`, lowered if below.

    coef (1 + clip(kl / target - 1, -0.2, 0.2) x num_responses / horizon).

    Args:
        coef: Coefficient of this step.
        kl: Mean over response tokens, nats.
        target: > 0, nats.
        num_responses: Responses of the step.
        horizon: The coefficient changes by at most 20 % per this many responses.

    Reference:
        Ziegler et al., arXiv:1909.08593, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * num_responses / horizon)
