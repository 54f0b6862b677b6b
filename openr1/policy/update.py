"""One update of the policy: a plain loop over micro-batches. Knows torch only; DeepSpeed comes in as `TrainEngine`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from openr1.algorithms.kl import k3
from openr1.algorithms.losses import clipped_surrogate
from openr1.algorithms.token_ops import TokenOutputs, masked_sum
from openr1.batch import TrainBatch


class TrainEngine(Protocol):
    """What an update needs of DeepSpeed's engine (and of the plain one that tests use)."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> TokenOutputs:
        """Log-probs and more of response tokens."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, averaged over ranks."""

    def step(self) -> None:
        """Clip, apply and clear the gradient."""


@dataclass(frozen=True)
class LossSettings:
    """Coefficients of the policy loss; see the config's `algorithm` section."""

    eps_clip_low: float
    eps_clip_high: float
    init_kl_coef: float


def policy_update(
    engine: TrainEngine, micro_batches: Sequence[TrainBatch], settings: LossSettings, num_tokens: int, num_ranks: int
) -> dict[str, float]:
    """Make one optimizer step from this rank's micro-batches.

    The loss is the sum over all ranks' response tokens of (clipped surrogate + init_kl_coef * k3), divided by
    their number: cutting the batch differently does not change the gradient.

    Args:
        engine: Averages gradients over ranks, which the factor `num_ranks` undoes.
        micro_batches: This rank's, in order; every rank has as many.
        settings: Coefficients.
        num_tokens: Response tokens of the batch, over all ranks and micro-batches.
        num_ranks: Ranks that share the batch.

    Returns:
        Sums over this rank's response tokens (see `token_sums`); add up over ranks before dividing.
    """
    sums: Counter[str] = Counter()
    for micro in micro_batches:
        assert micro.advantages is not None
        log_probs, entropy, _ = engine(micro.input_ids, micro.attention_mask, micro.response_mask)
        old_log_probs = log_probs.detach() if micro.old_log_probs is None else micro.old_log_probs
        loss, clipped = clipped_surrogate(
            log_probs, old_log_probs, micro.advantages, settings.eps_clip_low, settings.eps_clip_high
        )
        kl = torch.zeros_like(loss)
        if micro.ref_log_probs is not None:
            kl = k3(log_probs, micro.ref_log_probs)
            loss = loss + settings.init_kl_coef * kl
        loss_sum = masked_sum(loss, micro.response_mask)
        engine.backward(loss_sum * (num_ranks / num_tokens))
        sums.update({"loss": float(loss_sum.detach())})
        sums.update(token_sums(micro, old_log_probs, entropy, kl.detach(), clipped))
    engine.step()
    return dict(sums)


def token_sums(micro: TrainBatch, log_probs: Tensor, entropy: Tensor, kl: Tensor, clipped: Tensor) -> dict[str, float]:
    """Sums over the micro-batch's response tokens, for metrics.

    The mismatch compares `log_probs`, the trainer's under the weights that sampled, with the engine's: its
    absolute difference, its k3 estimate of KL(engine || trainer), and the importance weight and its square.
    """
    mask = micro.response_mask
    difference = log_probs - micro.rollout_log_probs
    weight = difference.exp()
    per_token = {
        "entropy": entropy,
        "kl": kl,
        "clipped": clipped.float(),
        "mismatch_abs": difference.abs(),
        "mismatch_kl": k3(micro.rollout_log_probs, log_probs),
        "weight": weight,
        "weight_squared": weight.square(),
    }
    return {name: float(masked_sum(values, mask)) for name, values in per_token.items()} | {"tokens": float(mask.sum())}
