"""What a critic adds to a step: values of the batch before any update, and its own updates beside the policy's."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from openr1.algorithms.advantages import batch_normalized_advantages
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.gae import explained_variance, gae, token_rewards
from openr1.algorithms.token_ops import masked_sum
from openr1.config.train import AlgorithmConfig, TrainConfig


class Critic(Protocol):
    """The model of values (`policy.group.CriticGroup`)."""

    def values(self, batch: TrainBatch) -> torch.Tensor:
        """Values [B, T] under the current weights."""

    def update(self, batch: TrainBatch, clip: float | None) -> Callable[[], dict[str, float]]:
        """Begin one optimizer step; returns at once, with what waits for its numbers."""


def with_values(
    critic: Critic, batch: TrainBatch, rewards: torch.Tensor, costs: torch.Tensor, algorithm: AlgorithmConfig
) -> TrainBatch:
    """The batch with values, returns and advantages, which are normalized over all tokens that train.

    `rewards` [B] are of responses, `costs` [B, T] are what is taken off them, by token.
    """
    mask, values = batch.response_mask, critic.values(batch)
    advantages, returns = gae(token_rewards(rewards, costs, mask), values, mask, algorithm.gamma, algorithm.lambd)
    return replace(batch, advantages=batch_normalized_advantages(advantages, mask), values=values, returns=returns)


def begin_updates(critic: Critic | None, batch: TrainBatch, config: TrainConfig) -> Callable[[], dict[str, float]]:
    """Have the critic learn from the batch, in as many optimizer steps as the policy, and meanwhile.

    Returns at once, with what waits for its metrics; without a critic, or updates, there are none.
    """
    if critic is None or config.debug.rollout_only:
        return dict
    parts = batch.weighed_parts(config.policy.train_batch_size, "token", config.rollout.generate_max_len)
    epochs, clip = config.algorithm.max_epochs, config.critic.value_clip
    begun = [critic.update(part, clip) for _ in range(epochs) for part in parts]
    return lambda: critic_metrics(batch, [finish() for finish in begun])


def critic_metrics(batch: TrainBatch, updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """What the critic knew of the batch before it learned from it, and what it answered to each update."""
    assert batch.values is not None
    assert batch.returns is not None
    mask, tokens = batch.response_mask, max(batch.num_response_tokens, 1)
    return {
        "critic/loss": sum(update["loss"] for update in updates) / len(updates),
        "critic/grad_norm": sum(update["grad_norm"] for update in updates) / len(updates),
        "critic/value_mean": float(masked_sum(batch.values, mask)) / tokens,
        "critic/return_mean": float(masked_sum(batch.returns, mask)) / tokens,
        "critic/explained_variance": explained_variance(batch.values, batch.returns, mask),
    }
