"""The stage that turns shaped rewards into advantages, by an estimator of whole responses or by a critic."""

from dataclasses import replace

import torch
from torch import Tensor

from openr1.algorithms.advantages import (
    decoupled_advantages,
    find_estimator,
    group_normalized_advantages,
    update_running_reward,
)
from openr1.config.train import AlgorithmConfig
from openr1.errors import TrainingError
from openr1.interfaces import Critic
from openr1.rollout.experience import Experience, timed, to_components
from openr1.training.critic import with_values
from openr1.types import RunningReward


class AdvantageEstimation:
    """Fills in `advantages`, `running_reward` and the batch's advantages of an experience."""

    def __init__(self, algorithm: AlgorithmConfig, critic: Critic | None) -> None:
        """`critic` is given if and only if the estimator is gae.

        Raises:
            ConfigError: The estimator's import path cannot be resolved.
        """
        self._algorithm = algorithm
        self._critic = critic
        self._decoupled = algorithm.advantage_estimator == "gdpo"
        given = critic is not None or self._decoupled
        self._estimator = None if given else find_estimator(algorithm.advantage_estimator)

    def __call__(self, experience: Experience, past: RunningReward | None) -> Experience:
        """`past` is the running reward of the steps before; it is used if `reward_momentum` is set."""
        if self._critic is not None:
            with timed(experience.seconds, "values"):
                batch = with_values(self._critic, experience, self._algorithm)
            advantages = batch.mean_advantages.view_as(experience.rewards)
            return replace(experience, batch=batch, advantages=advantages)
        momentum = self._algorithm.reward_momentum
        advantages = self._of_components(experience) if self._decoupled else self._of_rewards(experience, past)
        batch = experience.batch.with_advantages(advantages.flatten())
        if experience.advantage_penalty is not None:
            batch = batch.less_penalty(experience.advantage_penalty)
            advantages = batch.mean_advantages.view_as(advantages)
        return replace(
            experience,
            batch=batch,
            advantages=advantages,
            running_reward=update_running_reward(past, momentum, experience.shaped_rewards[experience.valid]),
        )

    def _of_rewards(self, experience: Experience, past: RunningReward | None) -> Tensor:
        """Advantages [P, G] from the shaped rewards."""
        assert self._estimator is not None
        rewards, valid, momentum = experience.shaped_rewards, experience.valid, self._algorithm.reward_momentum
        if momentum > 0:
            return group_normalized_advantages(rewards, valid, past, momentum)
        advantages = self._estimator(rewards, valid)
        # A custom estimator's result of another shape would broadcast without an error.
        if advantages.shape != rewards.shape or not advantages.isfinite().all():
            raise TrainingError(
                f"algorithm.advantage_estimator {self._algorithm.advantage_estimator} returned advantages of shape "
                f"{list(advantages.shape)} for rewards of shape {list(rewards.shape)}; it must return finite "
                "values of the same shape"
            )
        return advantages

    def _of_components(self, experience: Experience) -> Tensor:
        """Advantages [P, G] from the components of the rewards (gdpo)."""
        names, values, present = to_components(experience.scored)
        if not names:
            raise TrainingError(
                "algorithm.advantage_estimator gdpo reads the components of the reward, and the reward server answers "
                "without any: take grpo, or answer with components"
            )
        weights = self._algorithm.component_weights
        if weights is None:
            weights = dict.fromkeys(names, 1.0)
        if missing := [name for name in names if name not in weights]:
            raise TrainingError(
                f"algorithm.component_weights has no weight for the reward's component {missing[0]!r}, only for "
                f"{', '.join(weights) or 'none'}: name it, with 0 to leave it out"
            )
        return decoupled_advantages(values, present, torch.tensor([weights[name] for name in names]), experience.valid)
