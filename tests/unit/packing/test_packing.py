"""Rows end to end against each row alone, through transformers' own model: log-probs and gradients."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from openr1.algorithms.batch import TrainBatch
from openr1.config.sections import ModelConfig
from openr1.packing.attention import PACKED_PIECES, PACKED_ROWS, attend_within_rows
from openr1.workers.model import LogProbModel, hidden_states, load_causal_lm

LENGTHS = (11, 1, 7, 7, 7, 19, 4, 1, 1)
"""Of responses; prompts have 3 tokens. Rows of equal length, side by side and apart."""


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


@pytest.mark.parametrize(("kind", "attention"), [("full", PACKED_PIECES), ("full", PACKED_ROWS), ("windowed", "sdpa")])
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
    packed = LogProbModel(load_causal_lm(settings), 1.0).train()
    if attention == PACKED_ROWS:  # As on a GPU.
        packed.lm.set_attn_implementation(PACKED_ROWS)
    assert packed.lm.config._attn_implementation == attention
    batch = TrainBatch.from_tokens([(row[:3], row[3:]) for row in rows])
    log_probs = packed(batch.input_ids, batch.attention_mask, batch.response_mask).log_probs[batch.response_mask]
    (log_probs * torch.cat(weights)).sum().backward()

    torch.testing.assert_close(log_probs.detach(), torch.cat(expected), atol=2e-6, rtol=1e-5)
    gradients = {name: parameter.grad for name, parameter in packed.lm.named_parameters()}
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=2e-6, rtol=1e-4)


def attention_layer(heads: int, key_heads: int) -> nn.Module:
    """What transformers' attention reads of a layer."""
    layer = nn.Module()
    layer.num_key_value_groups, layer.is_causal = heads // key_heads, True
    return layer


def ends_of(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """What attention reads of the bounds of rows."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares the kernel of GPUs; this machine has none")
def test_the_kernel_of_gpus_gives_the_same() -> None:
    """Catches bounds of rows that are off by one, a future that is seen, and key heads of other query heads."""
    generator = torch.Generator().manual_seed(3)
    layer, shapes = attention_layer(4, 2), [(1, heads, sum(LENGTHS), 16) for heads in (4, 2, 2)]
    plain = [torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes]
    on_gpu = [tensor.detach().cuda().requires_grad_() for tensor in plain]
    weights = torch.randn(1, sum(LENGTHS), 4, 16, generator=generator)
    for tensors in (plain, on_gpu):
        ends = ends_of(LENGTHS, tensors[0].device)
        attended, _ = attend_within_rows(layer, *tensors, None, row_lengths=list(LENGTHS), row_ends=ends, scaling=0.25)
        (attended.float() * weights.to(attended.device)).sum().backward()
    for expected, tensor in zip(plain, on_gpu, strict=True):
        assert expected.grad is not None
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad.cpu().float(), expected.grad.float(), atol=0.03, rtol=0.03)


def test_gpus_get_one_call_for_all_rows() -> None:
    """Catches arguments that the kernel of GPUs does not take, and a copy to the GPU in every layer: shapes alone are
    computed, which needs no GPU."""
    calls: list[str] = []

    class Calls(TorchDispatchMode):
        """Notes what is called."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(str(func))
            return func(*args, **(kwargs or {}))

    with FakeTensorMode():
        tensors = [torch.empty(1, heads, 48, 16, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2)]
        rows = {"row_lengths": [40, 5, 3], "row_ends": ends_of([40, 5, 3], tensors[0].device)}
        with Calls():
            attended, _ = attend_within_rows(attention_layer(4, 2), *tensors, None, **rows)
    assert attended.shape == (1, 48, 4, 16)
    assert [name for name in calls if "attn" in name or "attention" in name] == ["torch_attn._varlen_attn.default"]
    assert [name for name in calls if "lift" in name or "copy" in name] == []


class Recorder(nn.Module):
    """A backbone that notes what it is given."""

    config = SimpleNamespace(_attn_implementation=PACKED_ROWS)

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> SimpleNamespace:
        """Hidden states of size 2."""
        self.given = kwargs
        return SimpleNamespace(last_hidden_state=torch.zeros(1, input_ids.shape[1], 2))


def test_layers_get_lengths_and_ends_of_rows() -> None:
    """Catches ends that are off by a row: no layer reads them on the CPU, so no result would show it."""
    batch = TrainBatch.from_tokens([([5], [1, 2]), ([5, 6], [3, 1, 2]), ([5], [3])])
    backbone = Recorder()
    hidden_states(backbone, batch.input_ids, batch.attention_mask)
    rows = backbone.given["rows"]
    assert rows.row_lengths == [5, 3, 2]
    assert (rows.row_ends.tolist(), rows.row_ends.dtype) == ([0, 5, 8, 10], torch.int32)


def test_exports_of_packed_models_are_plain(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches our name of an attention in an exported config, with which nobody else could load the model."""
    path = tiny_model(True)
    load_causal_lm(ModelConfig(path=path, packing=True)).save_pretrained(tmp_path)
    assert "openr1" not in (tmp_path / "config.json").read_text()
