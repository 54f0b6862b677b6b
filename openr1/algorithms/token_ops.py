"""Per-token quantities from hidden states. Index t of every [B, T] tensor describes token t; position 0 is masked."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from openr1.algorithms.head import Projection, projection

CPU_LOGITS, GPU_LOGITS = 2**26, 2**29
"""Logits that may exist at one time: 256 MiB and 2 GiB in float32; with their intermediates about four times that.
Larger products keep a GPU busier, and each chunk adds up a whole gradient of the weight."""
GPU_BYTES_PER_LOGIT = 256
"""Memory of a GPU for each of these logits, at least: a GPU of 24 GB holds 1e8, one of 80 GB 3e8."""
CHUNK_TOKENS = 2048
"""Largest number of tokens per chunk on the CPU; on a GPU as many as may exist at one time."""

Entropy = Literal["none", "value", "gradient"]
"""Whether to compute entropies: not at all, which saves a softmax; without gradient; or with gradient."""


class TokenOutputs(NamedTuple):
    """Per-token quantities [B, T] float32, in nats; 0 outside the response mask."""

    log_probs: Float[Tensor, "*shape"]
    """Log-prob of each response token, with gradient."""
    entropy: Float[Tensor, "*shape"]
    """Entropy of the distribution that the token was drawn from; 0 or without gradient, unless asked for."""
    logsumexp: Float[Tensor, "*shape"]
    """Log of the softmax's normalizer, with gradient."""


Compute = Callable[[Tensor, Tensor, Tensor | None], TokenOutputs]
"""Of hidden states [N, H], a weight [V, H], and a bias [V] if there is one."""


@runtime_checkable
class Head(Protocol):
    """The last layer of a language model, whose weights are there while it is called and not otherwise (ZeRO 3)."""

    def __call__(self, hidden: Tensor, compute: Compute) -> TokenOutputs:
        """What `compute` makes of hidden states and the weights."""


def _chunk_outputs(
    project: Projection,
    hidden: Float[Tensor, "N H"],
    targets: Int[Tensor, " N"],
    temperature: float,
    entropy_mode: Entropy,
) -> TokenOutputs:
    """Outputs [N] of N positions: hidden [N, H], targets [N]."""
    logits = project(hidden)
    if temperature != 1.0:
        logits = logits / temperature
    log_softmax = logits.log_softmax(-1)
    log_probs, chosen = (values.gather(-1, targets[:, None]).squeeze(-1) for values in (log_softmax, logits))
    entropy = torch.zeros_like(log_probs)
    if entropy_mode != "none":
        with torch.set_grad_enabled(entropy_mode == "gradient" and torch.is_grad_enabled()):
            # Without a tensor of products.
            entropy = -torch.einsum("nv,nv->n", log_softmax.exp(), log_softmax)
    return TokenOutputs(log_probs, entropy, chosen - log_probs)


class Chunking(NamedTuple):
    """How positions are cut where their logits are computed.

    Attributes:
        held: Positions whose logits may exist at one time; where there are more, each chunk is computed again in the
            backward pass.
        size: Positions of a chunk.
    """

    held: int
    size: int


def chunking(vocab_size: int, gpu_bytes: int | None) -> Chunking:
    """How to cut for a vocabulary, by the memory of the GPU; None for the CPU. A chunk has one position at least."""
    if gpu_bytes is None:
        held = max(1, CPU_LOGITS // vocab_size)
        return Chunking(held, min(CHUNK_TOKENS, held))
    held = max(1, min(GPU_LOGITS, gpu_bytes // GPU_BYTES_PER_LOGIT) // vocab_size)
    return Chunking(held, held)


def chunking_on(device: torch.device, vocab_size: int) -> Chunking:
    """`chunking` on a device."""
    gpu_bytes = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    return chunking(vocab_size, gpu_bytes)


def chunked_outputs(
    hidden: Float[Tensor, "N H"],
    targets: Int[Tensor, " N"],
    weight: Float[Tensor, "V H"],
    bias: Float[Tensor, " V"] | None,
    temperature: float,
    entropy: Entropy,
    chunks: Chunking,
) -> TokenOutputs:
    """Outputs [N] of N positions from their hidden states and the tokens that follow them; see `token_log_probs`."""
    project = projection(weight, bias)
    recompute = len(targets) > chunks.held
    compute = partial(checkpoint, _chunk_outputs, use_reentrant=False) if recompute else _chunk_outputs
    parts = zip(hidden.split(chunks.size), targets.split(chunks.size), strict=True)
    outputs = [compute(project, part, target, temperature, entropy) for part, target in parts]
    return TokenOutputs(*(torch.cat(values) for values in zip(*outputs, strict=True)))


def token_log_probs(
    head: Head,
    hidden: Float[Tensor, "B T H"],
    input_ids: Int[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    temperature: float,
    entropy: Entropy = "value",
    chunks: Chunking | None = None,
) -> TokenOutputs:
    """Log-probs, entropies and normalizers of response tokens under softmax(logits / temperature).

    The logits of token t come from the hidden state at t - 1. They are computed for response tokens only, in
    chunks. Where there are more than may exist at one time, the backward pass computes each chunk's again.

    Args:
        head: Called once, on every rank.
        hidden: Last hidden states [B, T, H].
        input_ids: Tokens [B, T].
        response_mask: True on response tokens [B, T]; column 0 must be False.
        temperature: That of the sampling, > 0.
        entropy: What is wanted of entropies; a gradient through them costs a chunk's logits once more.
        chunks: How to cut the positions; None for `chunking_on` the weight's device.

    Returns:
        [B, T] each. An all-False mask gives zeros that still depend on `hidden`.
    """
    positions = response_mask[:, 1:]
    inputs, targets = hidden[:, :-1][positions], input_ids[:, 1:][positions]

    def compute(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> TokenOutputs:
        cut = chunks or chunking_on(weight.device, weight.shape[0])
        return chunked_outputs(hidden, targets, weight, bias, temperature, entropy, cut)

    log_probs, entropies, logsumexp = head(inputs, compute)
    # The zero keeps the graph connected for an empty mask: every data-parallel rank must run a backward pass.
    zero = hidden[..., 0].float() * 0.0
    return TokenOutputs(
        zero.masked_scatter(response_mask, log_probs),
        (zero if entropy == "gradient" else zero.detach()).masked_scatter(response_mask, entropies),
        zero.masked_scatter(response_mask, logsumexp),
    )


def masked_sum(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Sum of `values` where `mask` is True; 0 for an empty mask, and NaN outside the mask does not count."""
    return torch.where(mask, values, torch.zeros_like(values)).sum()
