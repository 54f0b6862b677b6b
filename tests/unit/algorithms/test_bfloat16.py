"""Linear layers of bfloat16 with float32 arithmetic, against the exact product."""

import pytest
import torch
from torch import Tensor

from openr1.algorithms.bfloat16 import linear_in_float32

HALF_SPACING = 2**-8
"""Of bfloat16, relative: one rounding cannot be further off."""


def assert_rounded_once(found: Tensor, exact: Tensor) -> None:
    """Each value is as near to the exact one as bfloat16 allows, but for the rounding of float32 sums."""
    assert found.dtype == torch.bfloat16
    bound = 1.001 * HALF_SPACING * exact.abs() + 1e-5 * exact.abs().mean()
    assert ((found.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("has_bias", [True, False])
def test_product_and_gradients(has_bias: bool) -> None:
    """Catches a second rounding, operands that are swapped, a bias without gradient, and rows of another axis that are
    left out of the weight's gradient.
    """
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).bfloat16().requires_grad_()

    inputs, weight, upstream = random(3, 5, 64), random(48, 64), random(3, 5, 48).detach()
    bias = random(48) if has_bias else None
    result = linear_in_float32(inputs, weight, bias)
    result.backward(upstream)
    x, w, g = inputs.detach().double(), weight.detach().double(), upstream.double()
    exact = x @ w.T
    assert_rounded_once(result.detach(), exact if bias is None else exact + bias.detach().double())
    assert inputs.grad is not None
    assert weight.grad is not None
    assert_rounded_once(inputs.grad, g @ w)
    assert_rounded_once(weight.grad, torch.einsum("abo,abi->oi", g, x))
    if bias is not None:
        assert bias.grad is not None
        assert_rounded_once(bias.grad, g.sum((0, 1)))


def test_frozen_weights_cost_nothing() -> None:
    """Catches a gradient that is computed for the frozen weights of a LoRA policy."""
    inputs, weight = torch.ones(2, 4, dtype=torch.bfloat16, requires_grad=True), torch.ones(3, 4, dtype=torch.bfloat16)
    linear_in_float32(inputs, weight, None).sum().backward()
    assert weight.grad is None
    assert inputs.grad is not None
    assert inputs.grad.tolist() == [[3.0] * 4] * 2
