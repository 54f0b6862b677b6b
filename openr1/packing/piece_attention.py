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
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from openr1.packing.shared_prefixes import PackedRows

_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_GRADIENTS = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_between_pieces(query: Tensor, key: Tensor, value: Tensor, rows: PackedRows, scaling: float | None) -> Tensor:
    """Attention of packed tokens, equal to that of whole rows; computed in float32.

    The kernel's gradients took twice as long in bfloat16 (PyTorch 2.13, AMD EPYC with AVX-512).

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
class _Side:
    """Which tokens of the packed sequence the parts of a call have: a list of pieces for each, end to end."""

    parts: list[list[int]]

    def stacked(self, pieces: Sequence[Tensor]) -> Tensor:
        """From pieces [1, heads, tokens, ...] to parts [parts, heads, tokens, ...]."""
        return torch.cat([torch.cat([pieces[number] for number in part], 2) for part in self.parts])

    def apart(self, tensor: Tensor, lengths: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """The inverse: each piece with its part of a result."""
        for part, row in zip(self.parts, tensor.split(1), strict=True):
            yield from zip(part, row.split([lengths[number] for number in part], 2), strict=True)


@dataclass(frozen=True)
class _Call:
    """One call of the kernel, for parts of equal sizes. If `causal`, each is a piece that attends to itself."""

    queries: _Side
    keys: _Side
    causal: bool


def _calls(rows: PackedRows) -> list[_Call]:
    """All calls for one layer: each piece with itself, then all that follow the same pieces with these."""
    numbers, lengths = range(len(rows.pieces)), rows.pieces
    followers: dict[tuple[int, ...], list[int]] = {}
    for piece in numbers:
        if rows.before[piece]:
            followers.setdefault(rows.before[piece], []).append(piece)
    with_themselves: dict[int, list[list[int]]] = {}
    for piece in numbers:
        with_themselves.setdefault(lengths[piece], []).append([piece])
    with_others: dict[tuple[int, int], list[tuple[list[int], list[int]]]] = {}
    for before, after in followers.items():
        sizes = sum(lengths[piece] for piece in after), sum(lengths[piece] for piece in before)
        with_others.setdefault(sizes, []).append((after, list(before)))
    alone = [_Call(_Side(pieces), _Side(pieces), causal=True) for pieces in with_themselves.values()]
    return alone + [
        _Call(_Side([after for after, _ in pairs]), _Side([before for _, before in pairs]), causal=False)
        for pairs in with_others.values()
    ]


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
            inputs = call.queries.stacked(queries), call.keys.stacked(keys), call.keys.stacked(values)
            results = _KERNEL(*inputs, 0.0, call.causal, scale=scaling)
            parts = (call.queries.apart(result, rows.pieces) for result in results)
            for (piece, part), (_, log) in zip(*parts, strict=True):
                if piece in attended:
                    part, log = _join(attended[piece], normalizers[piece], part, log)
                attended[piece], normalizers[piece] = part, log
        joined, log = (torch.cat([found[piece] for piece in sorted(found)], 2) for found in (attended, normalizers))
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
        sums = [torch.zeros(query.shape) for _ in range(3)]
        totals = [total.split(rows.pieces, 2) for total in sums]
        for call in _calls(rows):
            ours, theirs = call.queries, call.keys
            inputs = ours.stacked(queries), theirs.stacked(keys), theirs.stacked(values)
            outputs = ours.stacked(results), ours.stacked(logs)
            found = _GRADIENTS(ours.stacked(gradients), *inputs, *outputs, 0.0, call.causal, scale=ctx.scaling)
            for side, tensor, total in zip((ours, theirs, theirs), found, totals, strict=True):
                for piece, part in side.apart(tensor, rows.pieces):
                    total[piece].add_(part)
        of_query, *of_keys = sums
        # Query heads that share a key head add up.
        of_key, of_value = (total.unflatten(1, (key.shape[1], -1)).sum(2) for total in of_keys)
        return of_query.to(query.dtype), of_key.to(key.dtype), of_value.to(value.dtype), None, None


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
