"""Attention between the pieces of packed rows, on the CPU: what rows share is a query once, too.

A piece attends to itself, causally, and to all of the pieces before it in its rows. Each of the two is a call of
PyTorch's kernel, and their results are joined by the logarithms of their normalizers. For the gradients, the kernel
gets the joined result and normalizer with each part, as in attention that is split over devices.

Reference:
    Dao et al., FlashAttention, arXiv:2205.14135, section 3.1 and appendix B.4; Liu et al., Ring Attention,
    arXiv:2310.01889, section 3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from openr1.workers.shared_prefixes import PackedRows

_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_GRADIENTS = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_between_pieces(query: Tensor, key: Tensor, value: Tensor, rows: PackedRows, scaling: float | None) -> Tensor:
    """Attention of packed tokens, equal to that of whole rows; computed in float32.

    For bfloat16 the kernel's gradients take twice the time of those in float32.

    Args:
        query: [1, heads, M, D].
        key: [1, key/value heads, M, D].
        value: [1, key/value heads, M, D].
        rows: How the tokens are packed.
        scaling: Factor of the attention scores; None for 1 / sqrt(D).

    Returns:
        [1, M, heads, D], in the dtype of `query`.
    """
    attended: Tensor = _PieceAttention.apply(query, key, value, rows, scaling)
    return attended.transpose(1, 2)


@dataclass(frozen=True)
class _Call:
    """One call of the kernel.

    Attributes:
        queries: Pieces that attend. If `causal`, they are of equal length, and each attends to itself.
        keys: Pieces that all of `queries` attend to, one after the other.
    """

    queries: list[int]
    keys: list[int]
    causal: bool

    def stacked(self, pieces: Sequence[Tensor], numbers: list[int]) -> Tensor:
        """Tensors of pieces [1, heads, tokens, ...]: side by side if each is for itself, otherwise end to end."""
        return torch.cat([pieces[number] for number in numbers], 0 if self.causal else 2)

    def apart(self, tensor: Tensor, numbers: list[int], lengths: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """The inverse: each piece with its part of a result."""
        parts = tensor.split(1, 0) if self.causal else tensor.split([lengths[number] for number in numbers], 2)
        return zip(numbers, parts, strict=True)


def _calls(rows: PackedRows) -> Iterator[_Call]:
    """All calls for one layer: each piece with itself, then each list of pieces that others follow with these."""
    for _, same in groupby(range(len(rows.pieces)), key=lambda piece: rows.pieces[piece]):
        pieces = list(same)
        yield _Call(pieces, pieces, causal=True)
    followers: dict[tuple[int, ...], list[int]] = {}
    for piece, before in enumerate(rows.before):
        if before:
            followers.setdefault(before, []).append(piece)
    for before, pieces in followers.items():
        yield _Call(pieces, list(before), causal=False)


class _PieceAttention(torch.autograd.Function):
    """See `attend_between_pieces`; the result is [1, heads, M, D]."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, rows: PackedRows, scaling: float | None
    ) -> Tensor:
        queries, keys, values = _split(query, key, value, rows)
        attended: dict[int, Tensor] = {}
        normalizers: dict[int, Tensor] = {}
        for call in _calls(rows):
            numbers = call.queries
            inputs = call.stacked(queries, numbers), call.stacked(keys, call.keys), call.stacked(values, call.keys)
            result, normalizer = _KERNEL(*inputs, 0.0, call.causal, scale=scaling)
            parts = call.apart(result, numbers, rows.pieces), call.apart(normalizer, numbers, rows.pieces)
            for (number, part), (_, log) in zip(*parts, strict=True):
                if number in attended:
                    part, log = _join(attended[number], normalizers[number], part, log)
                attended[number], normalizers[number] = part, log
        order = range(len(rows.pieces))
        joined = torch.cat([attended[number] for number in order], 2)
        log = torch.cat([normalizers[number] for number in order], 2)
        ctx.save_for_backward(query, key, value, joined, log)
        ctx.rows, ctx.scaling = rows, scaling  # type: ignore[attr-defined]
        return joined.to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, joined, log = ctx.saved_tensors
        rows: PackedRows = ctx.rows
        queries, keys, values = _split(query, key, value, rows)
        gradients, results, logs = (tensor.split(rows.pieces, 2) for tensor in (gradient.float(), joined, log))
        sums = [torch.zeros(1, query.shape[1], *query.shape[2:]) for _ in range(3)]
        of_queries, of_keys, of_values = (total.split(rows.pieces, 2) for total in sums)
        for call in _calls(rows):
            numbers = call.queries
            inputs = call.stacked(queries, numbers), call.stacked(keys, call.keys), call.stacked(values, call.keys)
            outputs = call.stacked(results, numbers), call.stacked(logs, numbers)
            found = _GRADIENTS(call.stacked(gradients, numbers), *inputs, *outputs, 0.0, call.causal, scale=ctx.scaling)
            for totals, tensor, pieces in zip(
                (of_queries, of_keys, of_values), found, (numbers, call.keys, call.keys), strict=True
            ):
                for number, part in call.apart(tensor, pieces, rows.pieces):
                    totals[number].add_(part)
        total_query, total_key, total_value = sums
        shared = key.shape[1], -1
        return (
            total_query.to(query.dtype),
            total_key.unflatten(1, shared).sum(2).to(key.dtype),
            total_value.unflatten(1, shared).sum(2).to(value.dtype),
            None,
            None,
        )


def _split(query: Tensor, key: Tensor, value: Tensor, rows: PackedRows) -> list[tuple[Tensor, ...]]:
    """Pieces in float32, with as many heads of keys and values as of queries."""
    times = query.shape[1] // key.shape[1]
    tensors = query, key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    return [tensor.float().split(rows.pieces, 2) for tensor in tensors]


def _join(one: Tensor, one_log: Tensor, other: Tensor, other_log: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to two sets of keys, from that to each, and the logarithm of its normalizer."""
    log = torch.logaddexp(one_log, other_log)
    joined = one * (one_log - log).exp()[..., None] + other * (other_log - log).exp()[..., None]
    return joined, log
