"""`model.attention`: which kernel is taken where, with availability faked; no GPU and no flash-attn are needed."""

import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from openr1.algorithms.batch import TrainBatch
from openr1.config.checks import check_sft
from openr1.config.sections import ModelConfig, OptimizerConfig
from openr1.config.sft import SftConfig
from openr1.errors import ConfigError, MissingError, OpenR1Error
from openr1.packing.attention import PACKED_ROWS, attend_within_rows
from openr1.workers import attention_choice, learner
from openr1.workers.attention_choice import (
    PACKED_ROWS_FA2,
    choose_implementation,
    describe_attention,
    flash_attn_kernel,
    import_problem,
    takes_flash_attn,
)
from openr1.workers.model import LogProbModel, load_causal_lm
from openr1.workers.settings import LearnerSettings
from tests.unit.packing.test_packing import attention_layer, windowed_model

HERE = {"packed": True, "on_cuda": True, "problem": None}
"""Where flash-attn can be used."""


def settings(attention: str, dtype: str = "bfloat16", path: Path = Path("m")) -> ModelConfig:
    """A packed model."""
    return ModelConfig.model_validate({"path": path, "dtype": dtype, "packing": True, "attention": attention})


@pytest.mark.parametrize(
    ("attention", "dtype", "there", "expected"),
    [
        ("auto", "bfloat16", {}, True),
        ("auto", "float32", {}, False),
        ("auto", "bfloat16", {"packed": False}, False),
        ("auto", "bfloat16", {"on_cuda": False}, False),
        ("auto", "bfloat16", {"problem": "No module named 'flash_attn'"}, False),
        ("sdpa", "bfloat16", {}, False),
        ("flash_attention_2", "bfloat16", {}, True),
    ],
)
def test_flash_attn_is_taken_where_it_can_be_used(
    attention: str, dtype: str, there: dict[str, Any], expected: bool
) -> None:
    """Catches a kernel of 16 bits for float32, one of GPUs on a CPU, and sdpa that is not obeyed."""
    assert takes_flash_attn(settings(attention, dtype), **HERE | there) is expected


@pytest.mark.parametrize(
    ("there", "kind", "told"),
    [
        ({"packed": False}, ConfigError, "sliding-window"),
        ({"on_cuda": False}, ConfigError, "needs a CUDA GPU"),
        ({"problem": "undefined symbol: _ZN3c10"}, MissingError, r"flash-attn, .*\(undefined symbol: _ZN3c10\)"),
    ],
)
def test_required_flash_attn_that_cannot_be_used(there: dict[str, Any], kind: type[OpenR1Error], told: str) -> None:
    """Catches a run that quietly uses another kernel than the required one, and a message without the reason."""
    with pytest.raises(kind, match=told) as caught:
        takes_flash_attn(settings("flash_attention_2"), **HERE | there)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("packing", "dtype"), [(False, "bfloat16"), (True, "float32")])
def test_settings_that_exclude_flash_attn_are_refused_at_once(packing: bool, dtype: str) -> None:
    """Catches a wrong setting that shows only when the ranks have started."""
    model = {"path": "m", "packing": packing, "dtype": dtype, "attention": "flash_attention_2"}
    config = {"run": {"name": "a"}, "model": model, "data": {"train": "t.jsonl"}}
    with pytest.raises(ConfigError, match=rf"they are {str(packing).lower()} and {dtype}"):
        check_sft(SftConfig.model_validate(config))
    model |= {"packing": True, "dtype": "bfloat16"}
    check_sft(SftConfig.model_validate(config))


def test_packages_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a build for another torch, which fails only at its import, that is taken for usable."""
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert "flash_attn" in str(import_problem())
    monkeypatch.delitem(sys.modules, "flash_attn")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: x\\nmore')")
    assert import_problem() == "undefined symbol: x"
    (tmp_path / "flash_attn.py").write_text("flash_attn_varlen_func = None")
    assert import_problem() is None
    sys.modules.pop("flash_attn")


def fake_gpu(monkeypatch: pytest.MonkeyPatch, problem: str | None) -> None:
    """Let the choice believe in a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention_choice, "import_problem", lambda: problem)


@pytest.mark.parametrize(("problem", "name"), [(None, PACKED_ROWS_FA2), ("missing", PACKED_ROWS)])
def test_a_model_is_loaded_with_the_choice(
    problem: str | None,
    name: str,
    tiny_model: Callable[[bool], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a choice that does not reach the model, or whose name transformers takes for a kernel of its own.

    On the CPU both give what PyTorch gives, and the exported config has neither name.
    """
    batch = TrainBatch.from_tokens([([5, 6], [7, 8, 9]), ([10], [11])])
    path = tiny_model(True)
    fake_gpu(monkeypatch, problem)
    # Under the same circumstances: what a CPU without instructions for bfloat16 replaces is replaced in neither.
    plain, lm = (load_causal_lm(settings(attention, path=path)) for attention in ("sdpa", "auto"))
    monkeypatch.undo()
    assert lm.config._attn_implementation == name
    assert ("flash-attn" in describe_attention(lm.config)) == (problem is None)
    found, expected = (LogProbModel(model, 1.0)(*batch.inputs).log_probs for model in (lm, plain))
    # Rows that are attended to alone, and in one masked product, are rounded to bfloat16 in another order.
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)
    lm.save_pretrained(tmp_path)
    assert PACKED_ROWS not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("role", ["policy", "critic"])
def test_a_rank_says_what_it_uses(
    role: Literal["policy", "critic"],
    tiny_model: Callable[[bool], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a run on GPUs whose logs do not tell which kernel it had."""
    monkeypatch.setattr(learner.deepspeed_backend, "build", lambda module, settings, writer: None)
    model = settings("auto", path=tiny_model(True))
    learner.build_learner(LearnerSettings(model, OptimizerConfig(), 1, 1.0, 1, role))
    assert "attention: packed rows, with PyTorch's kernel for CPUs\n" in capsys.readouterr().out


def test_models_with_windows_refuse_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches windows that are ignored because another kernel is required."""
    path = windowed_model(tmp_path)
    fake_gpu(monkeypatch, None)
    with pytest.raises(ConfigError, match="sliding-window"):
        load_causal_lm(settings("flash_attention_2", path=path))
    assert choose_implementation("sdpa", settings("auto")) == "sdpa"


def varlen_by_hand(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """`flash_attn_varlen_func` of flash-attn 2.8.3, with its names and defaults, head by head and row by row."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    out, group = torch.empty_like(query), query.shape[1] // key.shape[1]
    for first, end in zip(cu_seqlens_q.tolist(), cu_seqlens_q.tolist()[1:], strict=False):
        for head in range(query.shape[1]):
            scores = query[first:end, head] @ key[first:end, head // group].T
            scores = scores * (query.shape[2] ** -0.5 if softmax_scale is None else softmax_scale)
            if causal:
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
            out[first:end, head] = scores.softmax(-1) @ value[first:end, head // group]
    return out


def ends_of(lengths: list[int]) -> Tensor:
    """Where rows end, from 0."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


@pytest.mark.parametrize("scaling", [None, 0.7])
def test_kernel_is_called_as_flash_attn_wants_it(scaling: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches attention to the future, a scale that is lost, and bounds in the wrong place, against PyTorch's path."""
    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = varlen_by_hand  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    generator, lengths = torch.Generator().manual_seed(1), [4, 1, 6]
    query, key, value = (torch.randn(1, heads, 11, 8, generator=generator) for heads in (4, 2, 2))
    expected, _ = attend_within_rows(
        attention_layer(4, 2), query, key, value, None, row_lengths=lengths, row_ends=ends_of(lengths), scaling=scaling
    )
    tokens_first = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    attended = flash_attn_kernel(*tokens_first, torch.tensor([0, 4, 5, 11], dtype=torch.int32), 6, scaling)
    torch.testing.assert_close(attended[None], expected, atol=1e-6, rtol=1e-5)


def test_on_gpus_the_kernel_gets_the_rows() -> None:
    """Catches a kernel that is not called, or gets heads before tokens: only shapes are computed, without a GPU."""
    calls: list[tuple[Any, ...]] = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scaling: float | None) -> Tensor:
        calls.append((query.shape, key.shape, value.shape, ends.shape, ends.dtype, longest, scaling))
        return torch.empty_like(query)

    with FakeTensorMode():
        tensors = [torch.empty(1, heads, 48, 16, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2)]
        layer, lengths = attention_layer(4, 2), [40, 5, 3]
        rows = {"row_lengths": lengths, "row_ends": ends_of(lengths)}
        attended, _ = attend_within_rows(layer, *tensors, None, **rows, scaling=0.5, kernel=kernel)
    assert calls == [((48, 4, 16), (48, 2, 16), (48, 2, 16), (4,), torch.int32, 40, 0.5)]
    assert attended.shape == (1, 48, 4, 16)
