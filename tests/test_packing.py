"""Rows end to end against each row alone, through transformers' own model: log-probs and gradients."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from openr1.batch import TrainBatch
from openr1.config import ModelConfig
from openr1.policy.attention import PACKED_ROWS
from openr1.policy.model import TokenModel, load_causal_lm

LENGTHS = (11, 1, 7, 19, 4)
"""Of responses; prompts have 3 tokens."""


def windowed_model(folder: Path) -> Path:
    """A random model whose tokens see 4 others at most."""
    config = MistralConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
    )
    torch.manual_seed(0)
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "attention"), [("full", PACKED_ROWS), ("windowed", "sdpa")])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_are_computed_each_for_itself(
    kind: str, attention: str, checkpointing: bool, tiny_model: Callable[[bool], Path], tmp_path: Path
) -> None:
    """Catches rows that see a neighbour, lengths that attention does not get, and a window that is ignored."""
    path = tiny_model(True) if kind == "full" else windowed_model(tmp_path)
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randint(5, 500, (3 + length,), generator=generator).tolist() for length in LENGTHS]
    weights = [torch.randn(length, generator=generator) for length in LENGTHS]

    alone = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    expected = []
    for row, weight in zip(rows, weights, strict=True):
        tokens = torch.tensor(row)
        chosen = alone(tokens[None, :-1]).logits[0].log_softmax(-1).gather(-1, tokens[1:, None])[2:, 0]
        (chosen * weight).sum().backward()
        expected.append(chosen.detach())

    settings = ModelConfig(path=path, dtype="float32", packing=True, gradient_checkpointing=checkpointing)
    packed = TokenModel(load_causal_lm(settings), 1.0, packing=True).train()
    assert packed.lm.config._attn_implementation == attention
    batch = TrainBatch.from_tokens([(row[:3], row[3:]) for row in rows])
    log_probs = packed(batch.input_ids, batch.attention_mask, batch.response_mask).log_probs[batch.response_mask]
    (log_probs * torch.cat(weights)).sum().backward()

    torch.testing.assert_close(log_probs.detach(), torch.cat(expected), atol=2e-6, rtol=1e-5)
    gradients = {name: parameter.grad for name, parameter in packed.lm.named_parameters()}
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=2e-6, rtol=1e-4)


def test_exports_of_packed_models_are_plain(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches our name of an attention in an exported config, with which nobody else could load the model."""
    path = tiny_model(True)
    load_causal_lm(ModelConfig(path=path, packing=True)).save_pretrained(tmp_path)
    assert PACKED_ROWS not in (tmp_path / "config.json").read_text()
