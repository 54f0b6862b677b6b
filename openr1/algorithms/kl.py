"""Estimators of KL(policy || other) per token, from log-probs of tokens that the policy sampled."""

from torch import Tensor


def k3(log_probs: Tensor, other_log_probs: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = other - policy, in nats: unbiased where the policy sampled, and never negative.

    Args:
        log_probs: Of the policy, any shape; the gradient flows through them.
        other_log_probs: Same shape, of the reference (or whichever distribution the policy is compared with).

    Returns:
        Same shape. 0 where both are equal.

    Reference:
        Schulman, Approximating KL Divergence (2020), http://joschu.net/blog/kl-approx.html; as the KL term of
        GRPO in Shao et al., arXiv:2402.03300, equation 4.
    """
    difference = other_log_probs - log_probs
    return difference.expm1() - difference
