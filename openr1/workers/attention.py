"""Attention for rows that lie end to end: each for itself, so that the cost grows with the rows, not with their sum."""

from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

PACKED_ROWS = "openr1_packed_rows"
"""Name of `attend_within_rows` as an implementation of attention in transformers."""


def attend_within_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: list[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of packed rows, none of which sees another; what transformers' mask over all pairs gives, too.

    On a GPU one call does all of it, where its kernel has the type and the sizes; else rows of equal length share one.

    Args:
        module: The attention layer.
        query: [1, heads, N, D], the rows end to end; key and value [1, key heads, N, D].
        key: See `query`.
        value: See `query`.
        attention_mask: None; transformers makes none for implementations of others.
        row_lengths: Tokens of each row, at least 1; they add up to N.
        scaling: Factor of the scores; None: 1 / sqrt(D).
        dropout: Share of the weights that is dropped.
        kwargs: Whatever else transformers' own attention gets.

    Returns:
        [1, N, heads, D], and no attention weights.
    """
    assert attention_mask is None
    if query.is_cuda and dropout == 0 and _kernel_takes(query, value):
        return _attend_on_gpu(query, key, value, row_lengths, scaling), None
    equal = [(length, len(list(rows))) for length, rows in groupby(row_lengths)]
    parts = zip(*(tensor.split([n * length for length, n in equal], 2) for tensor in (query, key, value)), strict=True)
    attended = []
    for part, (length, rows) in zip(parts, equal, strict=True):
        # [rows, heads, length, D] each, without a copy.
        stacked = [tensor.squeeze(0).unflatten(1, (rows, length)).transpose(0, 1) for tensor in part]
        attention, _ = sdpa_attention_forward(module, *stacked, None, dropout, scaling, **kwargs)
        attended.append(attention.flatten(0, 1))
    return torch.cat(attended)[None], None


def _kernel_takes(query: Tensor, value: Tensor) -> bool:
    """Whether the kernel of GPUs has the tensors' type, of 16 bits, and sizes."""
    return query.dtype.itemsize == 2 and value.shape[-1] == query.shape[-1] <= 256 and query.shape[-1] % 8 == 0


def _attend_on_gpu(query: Tensor, key: Tensor, value: Tensor, row_lengths: list[int], scaling: float | None) -> Tensor:
    """`attend_within_rows` by the kernel for rows of any lengths in PyTorch (FlashAttention-2)."""
    ends = torch.tensor([0, *accumulate(row_lengths)], dtype=torch.int32, device=query.device)
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # [N, heads, D]
    both = (ends, ends, max(row_lengths), max(row_lengths))
    attended = varlen_attn(query, key, value, *both, scale=scaling, window_size=(-1, 0), enable_gqa=True)  # causal
    assert isinstance(attended, Tensor)
    return attended.unsqueeze(0)


def attention_of(config: PreTrainedConfig, packing: bool) -> str:
    """Which implementation a model gets.

    Layers that see a window or a chunk need transformers' masks: packed, these cost the square of all rows' tokens.
    """
    values = config.get_text_config().to_dict()
    sees_all = values.get("sliding_window") is None and set(values.get("layer_types") or ()) <= {"full_attention"}
    return PACKED_ROWS if packing and sees_all else "sdpa"


AttentionInterface.register(PACKED_ROWS, attend_within_rows)
