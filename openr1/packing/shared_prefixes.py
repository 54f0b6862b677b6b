"""Packing rows so that tokens which rows begin with in common are computed once: the prompt of a group's responses.

A token's hidden state depends on the tokens before it alone, so rows with a common beginning have the same states
there. Of such rows, the packed sequence has the beginning once. Attention alone reads other tokens: it puts whole rows
together from pieces of the packed sequence (`attention`), or goes from piece to piece (`piece_attention`). Gradients
add up in the pieces that rows share. The result is exact.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHORTEST = 16
"""Fewest tokens for which a beginning is shared: each piece of the packed sequence takes time of its own."""

Piece = tuple[int, int, int]
"""A row of the packed sequence, and where its piece begins and ends in it."""


@dataclass(frozen=True)
class PackedRows:
    """How rows are packed: N tokens of `rows` in all, of which the packed sequence has M.

    Attributes:
        row_lengths: Tokens of each row, longest first.
        row_ends: [rows + 1] int32: 0, then the sums of the first, the first two, ... lengths; N is the last.
        places: [N] int64: the place of every token of the rows in the flattened batch [B * T].
        kept: [M] int64: the same for the packed sequence.
        positions: [M] int64: the position of each packed token in its row.
        pieces: Lengths of the pieces of the packed sequence; they sum to M.
        uses: The pieces of which the rows consist, one row after the other.
        first: For each piece the index in `uses` of its first use.
        before: For each piece those before it, which are the same in all rows that have it.
    """

    row_lengths: list[int]
    row_ends: Tensor
    places: Tensor
    kept: Tensor
    positions: Tensor
    pieces: list[int]
    uses: list[int]
    first: list[int]
    before: list[tuple[int, ...]]

    @property
    def shares(self) -> bool:
        """Whether any token is computed for several rows."""
        return len(self.uses) > len(self.pieces)

    def whole_rows(self, packed: Tensor, dim: int) -> Tensor:
        """From M packed tokens along `dim` to the N of all rows."""
        if not self.shares:
            return packed
        pieces = packed.split(self.pieces, dim)
        return torch.cat([pieces[piece] for piece in self.uses], dim)

    def packed(self, rows: Tensor, dim: int) -> Tensor:
        """From the N tokens of all rows along `dim` to the M packed ones."""
        if not self.shares:
            return rows
        uses = rows.split([self.pieces[piece] for piece in self.uses], dim)
        return torch.cat([uses[use] for use in self.first], dim)


def pack_rows(input_ids: Tensor, attention_mask: Tensor) -> PackedRows:
    """Lay out rows [B, T] for packing, on the device of `input_ids`.

    Args:
        input_ids: Tokens; padding is on the right.
        attention_mask: True on real tokens, at least one in each row.
    """
    width = input_ids.shape[1]
    lengths = [int(length) for length in attention_mask.sum(-1).tolist()]
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    tokens = input_ids.cpu().numpy()
    rows = [tokens[row, :length] for row, length in enumerate(lengths)]
    chains = chain_pieces(rows)
    # Pieces in the order in which rows first use them, which is that of the packed sequence.
    numbers: dict[Piece, int] = {}
    numbered = [[numbers.setdefault(piece, len(numbers)) for piece in chains[row]] for row in order]
    uses = list(chain.from_iterable(numbered))
    before = {piece: tuple(row[:place]) for row in numbered for place, piece in enumerate(row)}
    first: dict[int, int] = {}
    for use, piece in enumerate(uses):
        first.setdefault(piece, use)
    kept = np.concatenate([np.arange(start, end) + row * width for row, start, end in numbers])
    places = np.concatenate([np.arange(lengths[row]) + row * width for row in order])
    device = input_ids.device
    row_lengths = [lengths[row] for row in order]
    return PackedRows(
        row_lengths=row_lengths,
        row_ends=torch.tensor([0, *accumulate(row_lengths)], dtype=torch.int32, device=device),
        places=torch.from_numpy(places).to(device),
        kept=torch.from_numpy(kept).to(device),
        positions=torch.from_numpy(kept % width).to(device),
        pieces=[end - start for _, start, end in numbers],
        uses=uses,
        first=[first[piece] for piece in range(len(numbers))],
        before=[before[piece] for piece in range(len(numbers))],
    )


def unshared_rows(count: int, length: int) -> PackedRows:
    """`count` rows of equal length that share nothing, on the default device; for estimates, which have no tokens."""
    places, each = torch.arange(count * length), list(range(count))
    lengths = [length] * count
    ends = torch.arange(count + 1, dtype=torch.int32) * length
    return PackedRows(lengths, ends, places, places, places % length, lengths, each, each, [()] * count)


def chain_pieces(rows: Sequence[NDArray[np.int64]]) -> list[list[Piece]]:
    """Cut rows into pieces, of which those with the same beginning have the same ones; in the order of the rows.

    In lexicographic order, no row has more in common with any row before it than with the one just before it.
    """
    # Numbers in this form are ordered as their bytes are.
    order = sorted(range(len(rows)), key=lambda row: rows[row].astype(">i8").tobytes())
    common = [0, *(common_length(rows[one], rows[other]) for one, other in pairwise(order))]
    parts: list[list[Piece]] = [[] for _ in rows]
    before: list[Piece] = []
    for row, shared in zip(order, rounded_down(common), strict=True):
        begun = [(owner, start, min(end, shared)) for owner, start, end in before if start < shared]
        own = [(row, shared, len(rows[row]))] if shared < len(rows[row]) else []
        parts[row] = before = begun + own
    # Where one row ends its part of another's tokens, all that have these tokens begin a new piece.
    cuts: dict[int, set[int]] = {}
    for owner, start, end in chain.from_iterable(parts):
        cuts.setdefault(owner, set()).update((start, end))
    ordered = {owner: sorted(places) for owner, places in cuts.items()}
    return [[piece for part in chained for piece in cut_at(part, ordered[part[0]])] for chained in parts]


def rounded_down(common: Sequence[int]) -> list[int]:
    """Common lengths of neighbors, each lowered to the lowest around it that is less than `SHORTEST` below it.

    Responses often have a first token or two in common: a piece for these would cost more than it saves. Lengths below
    `SHORTEST` become 0.
    """
    lowered = []
    for place, length in enumerate(common):
        left, right = lowest_near(length, reversed(common[:place])), lowest_near(length, common[place + 1 :])
        lowered.append(min(left, right) if min(left, right) >= SHORTEST else 0)
    return lowered


def lowest_near(length: int, others: Iterable[int]) -> int:
    """The lowest of a length and those that follow it, up to the first one that is `SHORTEST` or more below it."""
    lowest = length
    for other in others:
        if other <= length - SHORTEST:
            break
        lowest = min(lowest, other)
    return lowest


def cut_at(part: Piece, places: list[int]) -> list[Piece]:
    """A part of a row as pieces that end where others begin."""
    owner, start, end = part
    inside = [place for place in places if start <= place <= end]
    return [(owner, one, other) for one, other in pairwise(inside)]


def common_length(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """Number of tokens with which both rows begin."""
    size = min(len(one), len(other))
    differs = one[:size] != other[:size]
    return int(differs.argmax()) if differs.any() else size
