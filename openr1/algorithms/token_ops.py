"""Per-token quantities from hidden states. Index t of every [B, T] tensor describes token t; position 0 is masked."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 2048
"""Tokens whose logits exist at one time; bounds the memory of a step to CHUNK_TOKENS x V float32 values."""


def _chunk_log_probs_and_entropy(
    head: torch.nn.Module, hidden: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies, both [N] float32, of N positions: hidden [N, H], targets [N]."""
    log_probs = torch.log_softmax(head(hidden).float() / temperature, dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, targets[:, None]).squeeze(-1), entropy.detach()


def response_log_probs(
    head: torch.nn.Module, hidden: Tensor, input_ids: Tensor, response_mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of each response token under softmax(logits / temperature).

    The logits of token t come from the hidden state at t - 1. They are computed for response tokens alone, in
    chunks, and computed again in the backward pass, so that [tokens, V] never exists for a whole micro-batch.

    Args:
        head: Maps hidden states [N, H] to logits [N, V].
        hidden: Last hidden states [B, T, H].
        input_ids: Tokens [B, T].
        response_mask: True on response tokens [B, T]; column 0 must be False.
        temperature: That of the sampling, > 0.

    Returns:
        `log_probs` [B, T] float32 in nats, with gradient, and `entropy` [B, T] float32 in nats, without. Both are
        0 outside the mask; an all-False mask gives zeros that still depend on `hidden`.
    """
    positions = response_mask[:, 1:]
    inputs, targets = hidden[:, :-1][positions], input_ids[:, 1:][positions]
    chunks = [
        checkpoint(_chunk_log_probs_and_entropy, head, part, target, temperature, use_reentrant=False)
        for part, target in zip(inputs.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)
    ]
    # The zero keeps the graph connected for an empty mask: every data-parallel rank must run a backward pass.
    log_probs = hidden.float().sum(-1) * 0.0
    entropy = torch.zeros_like(log_probs)
    log_probs = log_probs.masked_scatter(response_mask, torch.cat([chunk[0] for chunk in chunks]))
    return log_probs, entropy.masked_scatter(response_mask, torch.cat([chunk[1] for chunk in chunks]))


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask` is True; 0 for an empty mask, and NaN outside the mask does not count."""
    return torch.where(mask, values, torch.zeros_like(values)).sum()
