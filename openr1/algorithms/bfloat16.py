"""Products of bfloat16 matrices on CPUs that have no instructions for them.

There, PyTorch multiplies bfloat16 matrices in plain loops. The same product of float32 copies, rounded to bfloat16, has
the same result up to the order of the sums: products of bfloat16 numbers are exact in float32, and both sum in float32.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has a fast product of bfloat16 matrices: x86 from AVX-512 on, Arm with its BF16 extension."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def linear_in_float32(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`functional.linear` of bfloat16 tensors with float32 arithmetic.

    Args:
        inputs: [..., I].
        weight: [O, I].
        bias: [O], or None.

    Returns:
        [..., O] bfloat16, rounded once; gradients are rounded once, too. Float32 copies of the operands exist during
        the product only.
    """
    result: Tensor = _Linear.apply(inputs, weight, bias)
    return result


class _Linear(torch.autograd.Function):
    """Keeps the bfloat16 operands for the backward pass, not their float32 copies."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        product = functional.linear(inputs.float(), weight.float(), None if bias is None else bias.float())
        return product.to(inputs.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        needs_inputs, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2).float()
        of_inputs = (rows @ weight.float()).view(inputs.shape).to(inputs.dtype) if needs_inputs else None
        of_weight = (rows.T @ inputs.flatten(0, -2).float()).to(weight.dtype) if needs_weight else None
        return of_inputs, of_weight, rows.sum(0).to(weight.dtype) if needs_bias else None
