"""One update of policy or critic: a loop over micro-batches. Knows torch only; DeepSpeed comes in as `TrainEngine`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.kl import KL_ESTIMATORS, k3
from openr1.algorithms.losses import LOSSES, ClipBounds, value_loss
from openr1.algorithms.off_policy import importance_weights, kept_tokens
from openr1.algorithms.token_ops import TokenOutputs, masked_sum

Outputs = TypeVar("Outputs", covariant=True)


class TrainEngine(Protocol[Outputs]):
    """What an update needs of DeepSpeed's engine (and of the plain one that tests use)."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Outputs:
        """What the model computes of response tokens."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, averaged over ranks."""

    def step(self) -> None:
        """Clip, apply and clear the gradient."""


@dataclass(frozen=True)
class OffPolicySettings:
    """How far responses of another distribution count; see the config's `off_policy` section."""

    importance: str = "none"
    importance_max: float = 2.0
    rejection: str = "none"
    rejection_low: float = 0.5
    rejection_high: float = 5.0


@dataclass(frozen=True)
class LossSettings:
    """What the policy loss is made of; see the config's `algorithm` section. `kl_coef` is 0 where KL is not in it."""

    policy_loss: str
    bounds: ClipBounds
    kl_coef: float
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    off_policy: OffPolicySettings = OffPolicySettings()


def policy_update(
    engine: TrainEngine[TokenOutputs],
    micro_batches: Sequence[TrainBatch],
    settings: LossSettings,
    num_ranks: int,
    learn: bool = True,
) -> dict[str, float]:
    """Make one optimizer step from this rank's micro-batches; without `learn`, only compute what it would tell.

    The loss is the sum over all ranks' response tokens of `loss_weights` x (corrected policy loss + kl_coef * KL -
    entropy_coef * entropy): cutting the batch differently does not change the gradient.

    Args:
        engine: Averages gradients over ranks, which the factor `num_ranks` undoes.
        micro_batches: This rank's, in order; every rank has as many. With `loss_weights`, made of the whole batch.
        settings: What the loss is made of.
        num_ranks: Ranks that share the batch.
        learn: Go backward, and make the step.

    Returns:
        `loss`, and sums over this rank's response tokens (see `token_sums`); add up over ranks, then divide the sums.
    """
    sums: Counter[str] = Counter()
    for micro in micro_batches:
        assert micro.advantages is not None
        assert micro.loss_weights is not None
        mask = micro.response_mask
        log_probs, entropy, _ = engine(*micro.inputs)
        old_log_probs = log_probs.detach() if micro.old_log_probs is None else micro.old_log_probs
        loss, clipped = LOSSES[settings.policy_loss](log_probs, old_log_probs, micro.advantages, mask, settings.bounds)
        weights, kept = _corrections(old_log_probs, micro, settings.off_policy)
        loss = loss * weights * kept
        kl = torch.zeros_like(loss)
        if micro.ref_log_probs is not None:
            kl = KL_ESTIMATORS[settings.kl_estimator](log_probs, micro.ref_log_probs)
            loss = loss + settings.kl_coef * kl
        loss = loss - settings.entropy_coef * entropy
        loss_sum = masked_sum(loss * micro.loss_weights, mask)
        if learn:
            engine.backward(loss_sum * num_ranks)
        sums.update({"loss": float(loss_sum.detach())})
        sums.update(
            token_sums(micro, old_log_probs)
            | _masked_sums(
                mask,
                entropy=entropy.detach(),
                kl=kl.detach(),
                clipped=clipped.float(),
                importance=weights,
                rejected=(~kept).float(),
            )
        )
    if learn:
        engine.step()
    return dict(sums)


def value_update(
    engine: TrainEngine[Tensor], micro_batches: Sequence[TrainBatch], clip: float | None, num_ranks: int
) -> float:
    """Make one optimizer step of the critic: the sum over all ranks' tokens of `loss_weights` x `value_loss`.

    Arguments as for `policy_update`. Returns this rank's share of the loss; add up over ranks.
    """
    total = 0.0
    for micro in micro_batches:
        assert micro.values is not None
        assert micro.returns is not None
        assert micro.loss_weights is not None
        values = engine(*micro.inputs)
        loss = value_loss(values, micro.values, micro.returns, clip)
        loss_sum = masked_sum(loss * micro.loss_weights, micro.response_mask)
        engine.backward(loss_sum * num_ranks)
        total += float(loss_sum.detach())
    engine.step()
    return total


def _corrections(log_probs: Tensor, micro: TrainBatch, settings: OffPolicySettings) -> tuple[Tensor, Tensor]:
    """Importance weights [B, T], and True where a token stays in the loss."""
    both = log_probs, micro.rollout_log_probs, micro.response_mask
    return (
        importance_weights(*both, settings.importance, settings.importance_max),
        kept_tokens(*both, settings.rejection, settings.rejection_low, settings.rejection_high),
    )


def token_sums(micro: TrainBatch, log_probs: Tensor) -> dict[str, float]:
    """Sums over the micro-batch's response tokens, for metrics, and their number `tokens`.

    The mismatch compares `log_probs`, the trainer's under the weights that sampled, with the engine's: its
    absolute difference, its k3 estimate of KL(engine || trainer), and the importance weight and its square.
    """
    difference = log_probs - micro.rollout_log_probs
    weight = difference.exp()
    return _masked_sums(
        micro.response_mask,
        tokens=torch.ones_like(weight),
        mismatch_abs=difference.abs(),
        mismatch_kl=k3(micro.rollout_log_probs, log_probs),
        weight=weight,
        weight_squared=weight.square(),
    )


def _masked_sums(mask: Tensor, **per_token: Tensor) -> dict[str, float]:
    return {name: float(masked_sum(values, mask)) for name, values in per_token.items()}
