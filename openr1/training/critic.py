"""What a critic adds to a step: values of the batch before any update, and its own updates beside the policy's."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from openr1.algorithms.advantages import batch_normalized_advantages
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.gae import explained_variance, gae, length_adaptive_lambda, token_level_rewards
from openr1.algorithms.objectives.base import StepStats
from openr1.algorithms.objectives.value import ValueObjective, ValueSums
from openr1.algorithms.token_ops import masked_sum
from openr1.config.train import AlgorithmConfig, TrainConfig
from openr1.interfaces import Critic
from openr1.rollout.experience import Experience


def with_values(critic: Critic, experience: Experience, algorithm: AlgorithmConfig) -> TrainBatch:
    """The experience's batch with values, returns and advantages, normalized over all tokens that train."""
    batch, mask = experience.batch, experience.batch.response_mask
    penalty = torch.zeros_like(batch.rollout_log_probs) if experience.kl_penalty is None else experience.kl_penalty
    values = critic.values(batch)
    rewards = token_level_rewards(experience.rewards.flatten(), penalty, mask)
    adaptive, critic_lambd = algorithm.lambd_alpha, algorithm.critic_lambd
    lambd = algorithm.lambd if adaptive is None else length_adaptive_lambda(mask, adaptive)
    advantages, returns = gae(rewards, values, mask, algorithm.gamma, lambd)
    if critic_lambd is not None:
        _, returns = gae(rewards, values, mask, algorithm.gamma, critic_lambd)
    return replace(batch, advantages=batch_normalized_advantages(advantages, mask), values=values, returns=returns)


def begin_critic_updates(
    critic: Critic | None, batch: TrainBatch, config: TrainConfig
) -> Callable[[], dict[str, float]]:
    """Start the critic's optimizer steps, which run concurrently with the policy's, one for each of them.

    Returns at once, with a function that waits for the critic's metrics; without a critic there are none.
    """
    if critic is None:
        return dict
    size, longest = config.policy.train_batch_size, config.rollout.generate_max_len
    parts = batch.mini_batches(size, "token", longest)
    objective = ValueObjective(config.critic.value_clip)
    begun = [critic.begin_step(part, objective) for _ in range(config.algorithm.max_epochs) for part in parts]
    return lambda: critic_metrics(batch, [finish() for finish in begun])


def critic_metrics(batch: TrainBatch, updates: Sequence[StepStats[ValueSums]]) -> dict[str, float]:
    """How well the critic predicted the batch before it learned from it, and its updates."""
    assert batch.values is not None
    assert batch.returns is not None
    mask, tokens = batch.response_mask, max(batch.num_response_tokens, 1)
    return {
        "critic/loss": sum(update.loss for update in updates) / len(updates),
        "critic/grad_norm": sum(update.grad_norm for update in updates) / len(updates),
        "critic/value_mean": float(masked_sum(batch.values, mask)) / tokens,
        "critic/return_mean": float(masked_sum(batch.returns, mask)) / tokens,
        "critic/explained_variance": explained_variance(batch.values, batch.returns, mask),
    }
