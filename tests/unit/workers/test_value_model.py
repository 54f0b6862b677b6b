"""The critic's model: where it begins, and which state each value is of."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from openr1.algorithms.batch import TrainBatch
from openr1.config.sections import ModelConfig
from openr1.workers.model import ValueModel, load_causal_lm


def rows() -> TrainBatch:
    """Four rows of random tokens, of different lengths."""
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(5, 500, (length,), generator=generator).tolist() for length in (7, 13, 5, 10)]
    return TrainBatch.from_tokens([(row[:4], row[4:]) for row in tokens])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_begin_at_zero(tiny_model: Callable[[bool], Path], dtype: str) -> None:
    """Catches a random head, values in bfloat16, a head of the language model that is kept, and a graph that is cut."""
    lm = load_causal_lm(ModelConfig(path=tiny_model(False), dtype=dtype))
    model, batch = ValueModel(lm), rows()
    assert not any("lm_head" in name for name, _ in model.named_parameters())
    for mask in (batch.response_mask, torch.zeros_like(batch.response_mask)):
        values = model(batch.input_ids, batch.attention_mask, mask)
        assert values.dtype == torch.float32
        assert not values.any()
        values.sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("packing", [False, True])
def test_value_is_read_before_its_token(tiny_model: Callable[[bool], Path], packing: bool) -> None:
    """Catches a value that knows the token it is compared with, and packed rows that see their neighbours."""
    model = ValueModel(load_causal_lm(ModelConfig(path=tiny_model(True), dtype="float32", packing=packing)))
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    batch = rows()
    plain = AutoModelForCausalLM.from_pretrained(tiny_model(True), dtype=torch.float32).model
    with torch.no_grad():
        values = model(batch.input_ids, batch.attention_mask, batch.response_mask)
        for row in range(len(batch)):
            places = batch.response_mask[row].nonzero().flatten().tolist()
            for place in (places[0], places[-1]):
                hidden = plain(batch.input_ids[row : row + 1, :place]).last_hidden_state[0, -1]
                expected = float(hidden @ model.head.weight[0])
                assert float(values[row, place]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert not values[~batch.response_mask].any()
