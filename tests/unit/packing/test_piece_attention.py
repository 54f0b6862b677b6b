"""Attention between pieces against each row's own attention, written out in float64."""

import pytest
import torch
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.packing.piece_attention import attend_between_pieces
from openr1.packing.shared_prefixes import PackedRows, pack_rows

TRUNK, BRANCH = list(range(100, 140)), list(range(200, 220))
ROWS = [
    [*TRUNK, *BRANCH, 1, 2, 3],
    [*TRUNK, *BRANCH, 4],
    [*TRUNK, 5],
    [*TRUNK, *BRANCH],
    [6, 7, 8],
    [9],
    [*TRUNK, 10, 11, 12, 13],
]
"""Two levels of beginnings, a row without tokens of its own, rows that share nothing, and rows of equal length."""


def packed_rows() -> PackedRows:
    """All of them."""
    batch = TrainBatch.from_tokens([([], row) for row in ROWS])
    rows = pack_rows(batch.input_ids, batch.attention_mask)
    assert max(len(before) for before in rows.before) == 2
    return rows


def written_out(query: Tensor, key: Tensor, value: Tensor, rows: PackedRows, scaling: float) -> Tensor:
    """Softmax over the tokens of each whole row up to the query: [1, M, heads, D]."""
    times = query.shape[1] // key.shape[1]
    whole = [rows.whole_rows(tensor, 2) for tensor in (query, key, value)]
    results = []
    for one_query, one_key, one_value in zip(*(tensor.split(rows.row_lengths, 2) for tensor in whole), strict=True):
        one_key, one_value = one_key.repeat_interleave(times, 1), one_value.repeat_interleave(times, 1)
        scores = one_query @ one_key.mT * scaling
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        results.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ one_value)
    return rows.packed(torch.cat(results, 2), 2).transpose(1, 2)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("scaling", [None, 0.05])
def test_results_and_gradients(heads: int, key_heads: int, scaling: float | None) -> None:
    """Catches a beginning that is left out or weighs too much, keys of other query heads, a scale that is ignored, and
    gradients of shared keys that are those of one row.
    """
    rows = packed_rows()
    size = sum(rows.pieces)
    generator = torch.Generator().manual_seed(0)
    exact = [
        torch.randn(1, count, size, 16, generator=generator, dtype=torch.float64, requires_grad=True)
        for count in (heads, key_heads, key_heads)
    ]
    single = [tensor.detach().float().requires_grad_() for tensor in exact]
    weights = torch.randn(1, size, heads, 16, generator=generator, dtype=torch.float64)
    expected = written_out(*exact, rows, 0.25 if scaling is None else scaling)
    (expected * weights).sum().backward()
    found = attend_between_pieces(*single, rows, scaling)
    (found * weights.float()).sum().backward()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(single, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.double(), other.grad, atol=1e-5, rtol=1e-4)


def test_bfloat16_is_rounded_once() -> None:
    """Catches a result in another dtype than the model's, and parts that are rounded before they are joined."""
    rows = packed_rows()
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(1, 2, sum(rows.pieces), 16, generator=generator).bfloat16() for _ in range(3)]
    found = attend_between_pieces(*(tensor.requires_grad_() for tensor in tensors), rows, None)
    found.sum().backward()
    assert (found.dtype, {tensor.grad.dtype for tensor in tensors}) == (torch.bfloat16, {torch.bfloat16})
    expected = written_out(*(tensor.detach().double() for tensor in tensors), rows, 0.25)
    # Half of the distance to the next number, 2**-8 of the value, and a little for sums in float32.
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=2**-8 * 1.01)
