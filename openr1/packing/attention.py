"""Attention for sequence packing: quadratic in the length of each packed row, not in their total length.

Tokens that rows have in common are packed once (`shared_prefixes`). The kernels of GPUs get whole rows, put together
from these: of a prompt, everything but the products with its own keys is then computed once for all of its responses.
The kernel of CPUs does those once, too (`piece_attention`).
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from openr1.packing.piece_attention import attend_between_pieces
from openr1.packing.shared_prefixes import PackedRows

PACKED_ROWS, PACKED_PIECES = "openr1_packed_rows", "openr1_packed_pieces"
"""Names of `attend_packed` and `attend_packed_on_cpu` among the attention implementations of transformers."""


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    rows: PackedRows,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`attend_within_rows` for packed tokens of which rows may share some.

    Args:
        module: The attention layer.
        query: [1, heads, M, D]: the packed tokens.
        key: [1, key/value heads, M, D].
        value: [1, key/value heads, M, D].
        attention_mask: Always None.
        rows: How they are packed.
        kwargs: See `attend_within_rows`.

    Returns:
        Output [1, M, heads, D], and None in place of attention weights.
    """
    query, key, value = (rows.whole_rows(tensor, 2) for tensor in (query, key, value))
    attended, _ = attend_within_rows(
        module, query, key, value, attention_mask, row_lengths=rows.row_lengths, row_ends=rows.row_ends, **kwargs
    )
    return rows.packed(attended, 1), None


def attend_packed_on_cpu(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    rows: PackedRows,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`attend_packed` in pieces, which the kernel of CPUs can do: see `attend_between_pieces`."""
    if dropout == 0 and query.shape[-1] == value.shape[-1]:
        return attend_between_pieces(query, key, value, rows, scaling), None
    kwargs |= {"rows": rows, "scaling": scaling, "dropout": dropout}
    return attend_packed(module, query, key, value, attention_mask, **kwargs)


def attend_within_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: list[int],
    row_ends: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    kernel: Callable[..., Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each packed row. Rows do not attend to each other.

    Equivalent to attention over all N tokens with a block-diagonal causal mask, as transformers builds it. On a GPU a
    variable-length kernel computes all rows in one call if it supports the dtype and head size. Otherwise consecutive
    rows of equal length are batched into one SDPA call.

    Args:
        module: The attention layer.
        query: [1, heads, N, D], the rows concatenated.
        key: [1, key/value heads, N, D].
        value: [1, key/value heads, N, D].
        attention_mask: Always None: transformers builds no mask for custom attention implementations.
        row_lengths: Number of tokens of each row, at least 1; they sum to N.
        row_ends: 0, then the sums of the first, the first two, ... row lengths: int32 on the device of `query`. The
            kernel reads them there; made from a list in every layer, they would be one blocking copy each.
        scaling: Factor of the attention scores; None for 1 / sqrt(D).
        dropout: Dropout probability of the attention weights.
        kernel: Used on a GPU in place of PyTorch's: see `attention_choice.flash_attn_kernel`.
        kwargs: Passed on to the SDPA attention of transformers.

    Returns:
        Output [1, N, heads, D], and None in place of attention weights.
    """
    assert attention_mask is None
    if query.is_cuda and dropout == 0 and _kernel_takes(query, value):
        return _attend_on_gpu(query, key, value, max(row_lengths), row_ends, scaling, kernel), None
    equal = [(length, len(list(rows))) for length, rows in groupby(row_lengths)]
    parts = zip(*(tensor.split([n * length for length, n in equal], 2) for tensor in (query, key, value)), strict=True)
    attended = []
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]  # See cpu_layers.adapt_to_cpu.
    for part, (length, rows) in zip(parts, equal, strict=True):
        # [rows, heads, length, D] each, without a copy.
        stacked = [tensor.squeeze(0).unflatten(1, (rows, length)).transpose(0, 1) for tensor in part]
        attention, _ = sdpa(module, *stacked, None, dropout=dropout, scaling=scaling, **kwargs)
        attended.append(attention.flatten(0, 1))
    return torch.cat(attended)[None], None


def _kernel_takes(query: Tensor, value: Tensor) -> bool:
    """Whether the variable-length kernel supports the dtype (16 bits) and the head sizes."""
    return query.dtype.itemsize == 2 and value.shape[-1] == query.shape[-1] <= 256 and query.shape[-1] % 8 == 0


def _attend_on_gpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    longest: int,
    row_ends: Tensor,
    scaling: float | None,
    kernel: Callable[..., Tensor] | None,
) -> Tensor:
    """`attend_within_rows` with `kernel`, or PyTorch's variable-length kernel (FlashAttention-2)."""
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # [N, heads, D]
    if kernel is not None:
        return kernel(query, key, value, row_ends, longest, scaling).unsqueeze(0)
    both = (row_ends, row_ends, longest, longest)
    attended = varlen_attn(query, key, value, *both, scale=scaling, window_size=(-1, 0), enable_gqa=True)  # causal
    assert isinstance(attended, Tensor)
    return attended.unsqueeze(0)


def attention_implementation(config: PreTrainedConfig, packing: bool) -> str:
    """Choose the attention implementation of a model: for packing if it is wanted, and every layer sees all tokens.

    Sliding-window and chunked layers need the masks of transformers, which for a packed sequence would grow with the
    square of all of its tokens: the rows of such models are padded.
    """
    values = config.get_text_config().to_dict()
    sees_all = values.get("sliding_window") is None and set(values.get("layer_types") or ()) <= {"full_attention"}
    return PACKED_ROWS if packing and sees_all else "sdpa"


AttentionInterface.register(PACKED_ROWS, attend_packed)
AttentionInterface.register(PACKED_PIECES, attend_packed_on_cpu)
