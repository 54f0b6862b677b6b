"""Per-token quantities from hidden states. Index t of every [B, T] tensor describes token t; position 0 is masked."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_VALUES = 2**26
"""Logits that exist at one time: 256 MiB in float32; with what is computed of them, about six times that."""
CHUNK_TOKENS = 2048
"""Tokens of a chunk at most."""


class TokenOutputs(NamedTuple):
    """Per-token quantities [B, T] float32, in nats; 0 outside the response mask."""

    log_probs: Tensor
    """Log-prob of each response token, with gradient."""
    entropy: Tensor
    """Entropy of the distribution that the token was drawn from, with gradient only where that was asked for."""
    logsumexp: Tensor
    """Log of the softmax's normalizer, with gradient."""


def _chunk_outputs(
    head: torch.nn.Module, hidden: Tensor, targets: Tensor, temperature: float, entropy_gradient: bool
) -> TokenOutputs:
    """Outputs [N] of N positions: hidden [N, H], targets [N]."""
    logits = head(hidden).float()
    if temperature != 1.0:
        logits = logits / temperature
    logsumexp = logits.logsumexp(-1)
    log_probs = logits.gather(-1, targets[:, None]).squeeze(-1) - logsumexp
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        # Without a tensor of products or of log-probs of the whole vocabulary.
        entropy = logsumexp - torch.einsum("nv,nv->n", logits.softmax(-1), logits)
    return TokenOutputs(log_probs, entropy, logsumexp)


def chunk_size(vocab_size: int) -> int:
    """Tokens of a chunk: `CHUNK_VALUES` logits, but not more than `CHUNK_TOKENS` tokens."""
    return max(1, min(CHUNK_TOKENS, CHUNK_VALUES // vocab_size))


def response_outputs(
    head: torch.nn.Module,
    hidden: Tensor,
    input_ids: Tensor,
    response_mask: Tensor,
    temperature: float,
    entropy_gradient: bool = False,
    chunk_tokens: int = CHUNK_TOKENS,
) -> TokenOutputs:
    """Log-probs, entropies and normalizers of response tokens under softmax(logits / temperature).

    The logits of token t come from the hidden state at t - 1. They are computed for response tokens alone, in
    chunks, and computed again in the backward pass, so that [tokens, V] never exists for a whole micro-batch.

    Args:
        head: Maps hidden states [N, H] to logits [N, V].
        hidden: Last hidden states [B, T, H].
        input_ids: Tokens [B, T].
        response_mask: True on response tokens [B, T]; column 0 must be False.
        temperature: That of the sampling, > 0.
        entropy_gradient: Let the gradient flow through the entropies, too, which costs a chunk's logits once more.
        chunk_tokens: Tokens whose logits exist at one time.

    Returns:
        [B, T] each. An all-False mask gives zeros that still depend on `hidden`.
    """
    positions = response_mask[:, 1:]
    inputs, targets = hidden[:, :-1][positions], input_ids[:, 1:][positions]
    chunks = [
        checkpoint(_chunk_outputs, head, part, target, temperature, entropy_gradient, use_reentrant=False)
        for part, target in zip(inputs.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    ]
    # The zero keeps the graph connected for an empty mask: every data-parallel rank must run a backward pass.
    zero = hidden[..., 0].float() * 0.0
    log_probs, entropy, logsumexp = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return TokenOutputs(
        zero.masked_scatter(response_mask, log_probs),
        (zero if entropy_gradient else zero.detach()).masked_scatter(response_mask, entropy),
        zero.masked_scatter(response_mask, logsumexp),
    )


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask` is True; 0 for an empty mask, and NaN outside the mask does not count."""
    return torch.where(mask, values, torch.zeros_like(values)).sum()
