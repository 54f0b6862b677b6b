"""Logits of a language model's head, in float32. On GPUs its bfloat16 operands are multiplied without a float32 copy.

A product of two bfloat16 numbers is exact in float32, so a matrix product that reads bfloat16 and sums in float32 is as
accurate as one of float32 copies, while it runs on tensor cores. The backward pass rounds the gradient of the logits to
bfloat16 (relative error at most 2^-8, as of any rounding to bfloat16) and sums in float32 as well.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Projection = Callable[[Tensor], Tensor]
"""Logits [..., V] (float32) of hidden states [..., H]."""


def projection(weight: Float[Tensor, "V H"], bias: Float[Tensor, " V"] | None) -> Projection:
    """The head as a function that may be called for one chunk of tokens after another.

    Args:
        weight: Of the head.
        bias: Of the head, if it has one.
    """
    return (bfloat16_projection if keeps_bfloat16(weight) else float32_projection)(weight, bias)


def keeps_bfloat16(weight: Tensor) -> bool:
    """Whether the operands stay in bfloat16: on CUDA, which alone has the product (`torch.mm` with `out_dtype`)."""
    return weight.is_cuda and weight.dtype == torch.bfloat16


def float32_projection(weight: Float[Tensor, "V H"], bias: Float[Tensor, " V"] | None) -> Projection:
    """The projection with float32 copies of weight and hidden states."""
    copied, copied_bias = weight.float(), None if bias is None else bias.float()
    return lambda hidden: functional.linear(hidden.float(), copied, copied_bias)


def bfloat16_projection(weight: Float[Tensor, "V H"], bias: Float[Tensor, " V"] | None) -> Projection:
    """The projection of bfloat16 hidden states by a bfloat16 weight.

    The weight's gradient is summed in float32 over all calls and rounded once. It is [V, H] float32, made in the
    backward pass, and only where the weight trains.
    """
    total, bias = _WeightGradient(), None if bias is None else bias.float()
    link = _WeightLink.apply(weight, total)
    # Kept for the backward pass under ZeRO 3, too, which frees the parameter itself after the head's call.
    values = weight.detach()

    def project(hidden: Tensor) -> Tensor:
        rows: Tensor = _Product.apply(hidden.flatten(0, -2), values, link, total)
        logits: Tensor = rows.unflatten(0, hidden.shape[:-1])
        return logits if bias is None else logits + bias

    return project


def float32_product(left: Float[Tensor, "N K"], right: Float[Tensor, "K M"]) -> Float[Tensor, "N M"]:
    """The matrix product of bfloat16 operands with float32 sums; without CUDA from float32 copies. No derivative."""
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


class _WeightGradient:
    """Sum [V, H] float32 of what the calls of a projection add in one backward pass; nothing is kept after it."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._backward_pass = -1

    def add(self, share: Tensor) -> None:
        """Add the share of one call."""
        # A pass that did not ask for the weight's gradient never took its sum, which must not count in the next one.
        current = torch._C._current_graph_task_id()
        stale = current != self._backward_pass
        self._sum = share if self._sum is None or stale else self._sum.add_(share)
        self._backward_pass = current

    def take(self, dtype: torch.dtype) -> Tensor:
        """The sum, rounded to `dtype`."""
        assert self._sum is not None
        rounded, self._sum = self._sum.to(dtype), None
        return rounded


class _WeightLink(torch.autograd.Function):
    """A scalar on which every product depends, so that its backward pass comes after all of theirs.

    The weight's gradient thereby passes autograd once, rounded, and not once for each chunk.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, total: _WeightGradient) -> Tensor:
        ctx.total, ctx.dtype = total, weight.dtype
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.total.take(ctx.dtype), None


class _Product(torch.autograd.Function):
    """Logits [N, V] float32 of hidden [N, H] and weight [V, H]. The weight's gradient goes to `total`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, link: Tensor, total: _WeightGradient) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.total = total
        return float32_product(hidden, weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        hidden, weight = ctx.saved_tensors
        of_logits = gradient.to(weight.dtype)
        needs_hidden, _, needs_weight, _ = ctx.needs_input_grad
        if needs_weight:
            ctx.total.add(float32_product(of_logits.T, hidden))
        of_hidden = float32_product(of_logits, weight).to(hidden.dtype) if needs_hidden else None
        return of_hidden, None, weight.new_zeros(()) if needs_weight else None, None
