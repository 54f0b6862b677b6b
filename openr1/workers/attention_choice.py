"""Which kernel computes the attention of packed rows on a GPU: PyTorch's, or that of the package flash-attn."""

import importlib
from functools import partial

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedConfig

from openr1.config.sections import ModelConfig
from openr1.errors import ConfigError, MissingError
from openr1.packing.attention import PACKED_PIECES, PACKED_ROWS, attend_packed

PACKED_ROWS_FA2 = f"{PACKED_ROWS}_fa2"
"""Name of `attend_packed` with the kernel of flash-attn. Names with "flash" in them are those of transformers."""

PACKED = (PACKED_ROWS, PACKED_ROWS_FA2, PACKED_PIECES)
"""Implementations for which rows may share tokens."""


def choose_implementation(name: str, model: ModelConfig) -> str:
    """The attention implementation to use where `attention_implementation` chose `name`, after `model.attention`.

    Raises:
        ConfigError: flash-attn is required, but there is no GPU, or the model has layers that it is not used for.
        MissingError: flash-attn is required, but cannot be imported.
    """
    packed, on_cuda = name == PACKED_ROWS, torch.cuda.is_available()
    problem = import_problem() if packed and on_cuda else None
    if takes_flash_attn(model, packed=packed, on_cuda=on_cuda, problem=problem):
        return PACKED_ROWS_FA2
    return PACKED_PIECES if packed and not on_cuda else name


def takes_flash_attn(model: ModelConfig, *, packed: bool, on_cuda: bool, problem: str | None) -> bool:
    """Whether flash-attn computes the attention; see `choose_implementation` for its errors.

    Args:
        model: Settings; `config.checks` has refused flash_attention_2 without packing or bfloat16.
        packed: The model computes packed rows by `attend_packed`: `model.packing`, and no sliding windows.
        on_cuda: This process has a GPU.
        problem: Why flash-attn cannot be imported; None if it can.
    """
    if model.attention == "sdpa":
        return False
    if packed and on_cuda and model.dtype == "bfloat16" and problem is None:
        return True
    if model.attention == "auto":
        return False
    if not packed:
        raise ConfigError(
            "model.attention flash_attention_2 is for packed rows that see all tokens before them, and this model has "
            "sliding-window or chunked layers; set model.attention auto"
        )
    if not on_cuda:
        raise ConfigError("model.attention flash_attention_2 needs a CUDA GPU, and there is none; set auto or sdpa")
    raise MissingError(
        f"model.attention flash_attention_2 needs the package flash-attn, which cannot be imported ({problem}); "
        "install it as docs/performance.md says, or set model.attention auto"
    )


def import_problem() -> str | None:
    """Why flash-attn cannot be imported, in one line; None if it can. Builds for another torch fail only when tried."""
    try:
        importlib.import_module("flash_attn")
    except ImportError as error:
        return str(error).partition("\n")[0]
    return None


def flash_attn_kernel(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scaling: float | None
) -> Tensor:
    """Causal attention of packed rows with the variable-length kernel of flash-attn 2.

    Args:
        query: [N, heads, D], in 16 bits, on a GPU.
        key: [N, key/value heads, D].
        value: [N, key/value heads, D].
        ends: [rows + 1] int32, where rows begin and end: 0, the first row's length, ..., N.
        longest: Length of the longest row.
        scaling: Factor of the attention scores; None for 1 / sqrt(D).

    Returns:
        [N, heads, D].

    Source: `flash_attn_varlen_func` of https://github.com/Dao-AILab/flash-attention.
    """
    function = importlib.import_module("flash_attn").flash_attn_varlen_func
    bounds = (ends, ends, longest, longest)
    attended: Tensor = function(query, key, value, *bounds, softmax_scale=scaling, causal=True)
    return attended


def describe_attention(config: PreTrainedConfig) -> str:
    """What computes the attention of a loaded model, for the log of its rank."""
    kernels = {
        PACKED_ROWS_FA2: "packed rows, with the kernel of flash-attn",
        PACKED_ROWS: "packed rows, with PyTorch's kernels",
        PACKED_PIECES: "packed rows, with PyTorch's kernel for CPUs",
    }
    name = str(config._attn_implementation)
    return kernels.get(name, name)


AttentionInterface.register(PACKED_ROWS_FA2, partial(attend_packed, kernel=flash_attn_kernel))
