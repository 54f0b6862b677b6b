"""Attention for rows that lie end to end: each for itself, so that the cost grows with the rows, not with their sum."""

from typing import Any

import torch
from torch import Tensor, nn
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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of packed rows, none of which sees another; what transformers' mask over all pairs gives, too.

    Args:
        module: The attention layer.
        query: [1, heads, N, D], the rows end to end; key and value [1, key heads, N, D].
        key: See `query`.
        value: See `query`.
        attention_mask: None; transformers makes none for implementations of others.
        row_lengths: Tokens of each row; they add up to N.
        kwargs: Of transformers' own attention: scaling, dropout.

    Returns:
        [1, N, heads, D], and no attention weights.
    """
    assert attention_mask is None
    rows = zip(*(tensor.split(row_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *row, None, **kwargs)[0] for row in rows], dim=1), None


def attention_of(config: PreTrainedConfig, packing: bool) -> str:
    """Which implementation a model gets.

    Layers that see a window or a chunk need transformers' masks: packed, these cost the square of all rows' tokens.
    """
    values = config.get_text_config().to_dict()
    sees_all = values.get("sliding_window") is None and set(values.get("layer_types") or ()) <= {"full_attention"}
    return PACKED_ROWS if packing and sees_all else "sdpa"


AttentionInterface.register(PACKED_ROWS, attend_within_rows)
