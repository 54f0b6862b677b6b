"""Tokens that rows begin with in common are computed once: which ones, by hand and for any rows, and exactly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openr1.algorithms.batch import TrainBatch
from openr1.config.sections import ModelConfig
from openr1.packing.attention import PACKED_PIECES, PACKED_ROWS
from openr1.packing.shared_prefixes import SHORTEST, PackedRows, chain_pieces, pack_rows
from openr1.workers.model import LogProbModel, ValueModel, load_causal_lm

P, Q = list(range(100, 100 + SHORTEST)), list(range(200, 230))


def pack(rows: list[list[int]]) -> PackedRows:
    """Rows that all belong to a prompt of no tokens."""
    batch = TrainBatch.from_tokens([([], row) for row in rows])
    return pack_rows(batch.input_ids, batch.attention_mask)


def test_pieces_by_hand() -> None:
    """Catches a beginning that is cut where no other row needs it, one too short to pay, and one computed twice.

    All but row 3 begin with P. Rows 1 and 4 go on alike for 20 tokens, 0 and 2 for one, which is too few.
    """
    rows = [[*P, 1, 9], [*P, *Q[:20], 2], [*P, 1, 8, *Q], [5] * 4, [*P, *Q[:20], 3, 3]]
    chains = chain_pieces([np.array(row) for row in rows])
    size = SHORTEST
    owner = chains[0][0][0]
    assert [chain[0] for chain in chains if len(chain) > 1] == [(owner, 0, size)] * 4
    assert chains[3] == [(3, 0, 4)]
    assert chains[1][1] == chains[4][1] == (1, size, size + 20)
    assert (chains[1][2:], chains[4][2:]) == ([(1, size + 20, size + 21)], [(4, size + 20, size + 22)])
    assert (chains[0][1:], chains[2][1:]) == ([(0, size, size + 2)], [(2, size, size + 32)])


def test_equal_rows_are_computed_once() -> None:
    """Catches a row without tokens of its own."""
    rows = pack([P + Q, P + Q, P])
    assert (rows.pieces, rows.uses) == ([SHORTEST, 30], [0, 1, 0, 1, 0])
    assert rows.row_lengths == [SHORTEST + 30, SHORTEST + 30, SHORTEST]


trunks = st.lists(st.lists(st.integers(0, 1), min_size=SHORTEST, max_size=40), min_size=1, max_size=3)


@given(trunks, st.data())
def test_whole_rows_are_put_together(trunks: list[list[int]], data: st.DataObject) -> None:
    """Catches a piece in a wrong row or order, positions that go on across rows, and tokens lost or computed twice."""
    rows = []
    for _ in range(data.draw(st.integers(1, 8))):
        begun = [token for trunk in data.draw(st.lists(st.sampled_from(trunks), max_size=3)) for token in trunk]
        rows.append(begun + data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=20)))
    packed = pack(rows)
    batch = TrainBatch.from_tokens([([], row) for row in rows])
    flat = batch.input_ids.flatten()
    tokens = flat[packed.kept]
    whole = packed.whole_rows(tokens, 0)
    assert sorted(packed.places.tolist()) == batch.attention_mask.flatten().nonzero().flatten().tolist()
    assert torch.equal(whole, flat[packed.places])
    assert torch.equal(packed.packed(whole, 0), tokens)
    positions = torch.arange(batch.input_ids.shape[1]).expand(batch.input_ids.shape).flatten()
    assert torch.equal(packed.whole_rows(packed.positions, 0), positions[packed.places])
    assert packed.row_lengths == sorted(map(len, rows), reverse=True)
    assert packed.row_ends.tolist() == [0, *torch.tensor(packed.row_lengths).cumsum(0).tolist()]
    # As few as there are different beginnings, but for those too short to be shared.
    beginnings = {tuple(row[:length]) for row in rows for length in range(1, len(row) + 1)}
    assert len(beginnings) <= len(tokens) <= len(beginnings) + (SHORTEST - 1) * len(rows)


@pytest.mark.parametrize("kind", ["log_probs", "values"])
@pytest.mark.parametrize("attention", [PACKED_PIECES, PACKED_ROWS])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_sharing_changes_neither_results_nor_gradients(
    kind: str, attention: str, checkpointing: bool, tiny_model: Callable[[bool], Path]
) -> None:
    """Catches a response that sees another's tokens or too little of the prompt, and gradients of the prompt that are
    those of one response. Against each row padded, by transformers' own attention.
    """
    generator = torch.Generator().manual_seed(4)

    def tokens(count: int) -> list[int]:
        return torch.randint(5, 500, (count,), generator=generator).tolist()

    prompts = [tokens(40), tokens(25)]
    rows = [(prompt, tokens(length)) for prompt in prompts for length in (9, 1, 30, 9)]
    rows.append((rows[2][0], rows[2][1][:20] + tokens(5)))  # Goes on as another response does.
    batch = TrainBatch.from_tokens(rows)
    weights = torch.randn(batch.input_ids.shape, generator=generator) * batch.response_mask
    found = {}
    for packing in (False, True):
        settings = ModelConfig(
            path=tiny_model(True), dtype="float32", packing=packing, gradient_checkpointing=checkpointing
        )
        lm = load_causal_lm(settings).train()
        if packing:
            lm.set_attn_implementation(attention)
        torch.manual_seed(0)
        model = LogProbModel(lm, 1.0) if kind == "log_probs" else ValueModel(lm)
        if isinstance(model, ValueModel):
            torch.nn.init.normal_(model.head.weight)
        output = model(*batch.inputs)
        output = output if isinstance(output, torch.Tensor) else output.log_probs
        (output * weights).sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found[packing] = output.detach() * batch.response_mask, gradients
    torch.testing.assert_close(found[True][0], found[False][0], atol=1e-5, rtol=1e-5)
    for name, gradient in found[False][1].items():
        if gradient is not None:
            size = float(gradient.abs().max())
            torch.testing.assert_close(found[True][1][name], gradient, atol=1e-5 * max(size, 1.0), rtol=0.0)


def test_the_prompt_is_computed_once(tiny_model: Callable[[bool], Path]) -> None:
    """Catches sharing that is computed, and then not used: the first layer must get each prompt once."""
    lm = load_causal_lm(ModelConfig(path=tiny_model(True), dtype="float32", packing=True))
    sizes: list[int] = []
    lm.base_model.layers[0].mlp.register_forward_hook(lambda _module, given, _output: sizes.append(given[0].shape[1]))
    batch = TrainBatch.from_tokens([(P, [1, 2, 3]), (P, [4]), (Q, [5, 6])])
    LogProbModel(lm, 1.0)(*batch.inputs)
    assert sizes == [SHORTEST + 3 + 1 + 30 + 2]
