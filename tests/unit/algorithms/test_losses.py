"""Policy losses: by hand, first gradients, finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openr1.algorithms.losses import LOSSES, ClipBounds, clipped_surrogate
from tests.unit.algorithms.plain import gradient_of, leaf

BOUNDS = ClipBounds(low=0.2, high=0.3)
ONE = torch.tensor([[True]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def loss_of(name: str, ratios: list[list[float]], advantages: list[float], bounds: ClipBounds) -> tuple[Tensor, ...]:
    """Loss, clipped and the gradient of the masked sum, for log-probs -1."""
    log_probs = torch.full((2, 3), -1.0).requires_grad_()
    old = -1.0 - torch.tensor(ratios).log()
    spread = torch.tensor(advantages)[:, None].expand(2, 3)
    loss, clipped = LOSSES[name](log_probs, old, spread, MASK, bounds)
    (loss * MASK).sum().backward()
    assert log_probs.grad is not None
    return loss.detach(), clipped, log_probs.grad


def test_dual_clip_by_hand() -> None:
    """Catches a bound that holds for good responses, too, or is missing where the ratio is large and A negative."""
    bounds = ClipBounds(0.2, 0.3, dual=3.0)
    loss, clipped, gradient = loss_of("ppo", [[5.0, 2.0, 1.0], [5.0, 1.0, 1.0]], [-2.0, 2.0], bounds)
    # A = -2: ratio 5 gives 10, bounded by 3 x 2 = 6; ratio 2 gives 4. A = 2: clipped at 1.3.
    torch.testing.assert_close(loss[MASK], torch.tensor([6.0, 4.0, -2.6]))
    assert clipped[MASK].tolist() == [True, False, True]
    torch.testing.assert_close(gradient[MASK], torch.tensor([0.0, 4.0, 0.0]))


def test_sequence_ratio_by_hand() -> None:
    """Catches an arithmetic mean, padding that counts, and a token's own ratio where the response's is meant."""
    bounds = ClipBounds(0.2, 0.3)
    # Row 0: ratios 2 and 1/2 have the geometric mean 1: inside, loss -A a token. Row 1: ratio 2, clipped at 1.3.
    loss, clipped, gradient = loss_of("gspo", [[2.0, 0.5, 100.0], [2.0, 100.0, 100.0]], [1.0, 1.0], bounds)
    torch.testing.assert_close(loss[MASK], torch.tensor([-1.0, -1.0, -1.3]))
    assert clipped[MASK].tolist() == [False, False, True]
    # d/dx of -2 exp(mean of log ratios) is -2 x 1 x 1/2 for each of the two tokens.
    torch.testing.assert_close(gradient[MASK], torch.tensor([-1.0, -1.0, 0.0]))


def test_clipped_weights_by_hand() -> None:
    """Catches gradient through the weight, and a clipped token that loses its gradient."""
    bounds = ClipBounds(0.2, 0.3)
    loss, clipped, gradient = loss_of("cispo", [[2.0, 0.5, 1.0], [1.0, 1.0, 1.0]], [2.0, -1.0], bounds)
    # -w A log_probs with log_probs = -1: 1.3 x 2, 0.8 x 2, and 1 x -1.
    torch.testing.assert_close(loss[MASK], torch.tensor([2.6, 1.6, -1.0]))
    assert clipped[MASK].tolist() == [True, True, False]
    torch.testing.assert_close(gradient[MASK], torch.tensor([-2.6, -1.6, 1.0]))


def test_geometric_mean_of_clipped_ratios_by_hand() -> None:
    """Catches a mean that is clipped as a whole, a bound on the wrong side, and gradient of a clipped token."""
    bounds = ClipBounds(low=0.5, high=1.0)
    # Row 0, A = 2: ratios 8, clipped to 2, and 1/8, not clipped below: mean sqrt(2 / 8) = 1/2, loss -1 a token.
    # Row 1, A = -3: ratio 1/4, clipped to 1/2: loss 1.5.
    loss, clipped, gradient = loss_of("gmpo", [[8.0, 0.125, 100.0], [0.25, 9.0, 9.0]], [2.0, -3.0], bounds)
    torch.testing.assert_close(loss[MASK], torch.tensor([-1.0, -1.0, 1.5]))
    assert clipped[MASK].tolist() == [True, False, True]
    # Both tokens of row 0 have the loss -2 exp(mean): each gives the second token -1 x 1/2.
    torch.testing.assert_close(gradient[MASK], torch.tensor([0.0, -1.0, 0.0]))


def test_soft_gate_by_hand() -> None:
    """Catches temperatures that are swapped, a gate that is not divided by its temperature, and hard clipping.

    With t = 2 and ratio 1 + ln(3) / 2 the sigmoid is 3/4, with t = 1 and ratio 1 + ln 3, too; its slope is 3/16.
    """
    bounds = ClipBounds(0.2, 0.3, soft=(2.0, 1.0))
    near, far = 1 + math.log(3) / 2, 1 + math.log(3)
    loss, clipped, gradient = loss_of("sapo", [[near, 1.0, 1.0], [far, 1.0, 1.0]], [1.0, -2.0], bounds)
    torch.testing.assert_close(loss[MASK], torch.tensor([-1.5, -1.0, 6.0]))
    assert not clipped.any()
    # -A x ratio x 4 x 3/16, and -A at ratio 1.
    torch.testing.assert_close(gradient[MASK], torch.tensor([-0.75 * near, -1.0, 2 * 0.75 * far]))


@pytest.mark.parametrize("name", LOSSES)
def test_first_update_has_the_policy_gradient(name: str) -> None:
    """Catches a loss whose gradient at ratio 1 is not that of REINFORCE, -A for each token."""
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]).requires_grad_()
    advantages = torch.tensor([[2.0], [-3.0]]).expand(2, 3)
    bounds = ClipBounds(0.2, 0.2)
    loss, clipped = LOSSES[name](log_probs, log_probs.detach(), advantages, MASK, bounds)
    (loss * MASK).sum().backward()
    assert log_probs.grad is not None
    assert not clipped.any()
    torch.testing.assert_close(log_probs.grad[MASK], -advantages[MASK])


@pytest.mark.parametrize("name", ["ppo", "gspo", "gmpo", "sapo"])
def test_gradients_against_finite_differences(name: str) -> None:
    """Catches a gradient that is not the loss's own. (CISPO's is not: its weight is held fixed.)"""
    generator = torch.Generator().manual_seed(1)
    old = -torch.rand(2, 3, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([[1.5], [-0.5]], dtype=torch.float64).expand(2, 3)
    start = old + 0.05 * torch.randn(2, 3, generator=generator, dtype=torch.float64)

    def total(log_probs: Tensor) -> Tensor:
        loss, _ = LOSSES[name](log_probs, old, advantages, MASK, ClipBounds(0.5, 0.5, dual=3.0))
        return (loss * MASK).sum()

    assert torch.autograd.gradcheck(total, start.requires_grad_())


# PPO


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "clipped", "gradient"),
    [
        # Bounds 0.8 and 1.3. Good responses: min(r * 2, clip(r) * 2).
        (2.0, 0.5, -1.0, False, -1.0),  # min(1.0, 1.6) = 1.0: still raised from below the bound, with -r * A
        (2.0, 0.9, -1.8, False, -1.8),
        (2.0, 1.0, -2.0, False, -2.0),
        (2.0, 1.25, -2.5, False, -2.5),  # inside; a bound of 1 + 0.2 would clip it
        (2.0, 1.5, -2.6, True, 0.0),  # min(3.0, 2.6) = 2.6: raised enough
        # Bad responses: min(r * -2, clip(r) * -2).
        (-2.0, 0.5, 1.6, True, 0.0),  # min(-1.0, -1.6) = -1.6: lowered enough
        (-2.0, 0.75, 1.6, True, 0.0),  # a bound of 1 - 0.3 would not clip it
        (-2.0, 0.9, 1.8, False, 1.8),
        (-2.0, 1.0, 2.0, False, 2.0),
        (-2.0, 1.5, 3.0, False, 3.0),  # min(-3.0, -2.6) = -3.0: still lowered from above the bound
        # Nothing to learn.
        (0.0, 0.5, 0.0, False, 0.0),
        (0.0, 1.5, 0.0, False, 0.0),
    ],
)
def test_surrogate_by_hand(advantage: float, ratio: float, loss: float, clipped: bool, gradient: float) -> None:
    """Catches a maximum for a minimum, swapped bounds, one bound used for both, and a gradient where it is clipped."""
    log_probs = leaf([[-1.0 + math.log(ratio)]])
    old, advantages = torch.tensor([[-1.0]]), torch.tensor([[advantage]])
    values, is_clipped = clipped_surrogate(log_probs, old, advantages, ONE, BOUNDS)
    values.sum().backward()
    assert float(values.detach()) == pytest.approx(loss, rel=1e-5)
    assert bool(is_clipped) is clipped
    assert float(gradient_of(log_probs)) == pytest.approx(gradient, rel=1e-5)


@settings(deadline=None)
@given(st.floats(-2, 2, width=32), st.floats(-5, 5, width=32))
def test_clipped_tokens_are_those_without_gradient(log_ratio: float, advantage: float) -> None:
    """Catches a `clipped` that counts tokens outside the bounds although their gradient is alive."""
    log_probs = leaf([[log_ratio]])
    old, advantages = torch.tensor([[0.0]]), torch.tensor([[advantage]])
    values, clipped = clipped_surrogate(log_probs, old, advantages, ONE, BOUNDS)
    values.sum().backward()
    if abs(advantage) > 1e-30:
        assert bool(clipped) == (float(gradient_of(log_probs)) == 0)
