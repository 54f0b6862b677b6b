"""The loop: prompts -> rollout -> rewards -> advantages -> policy update -> weight sync.

A single controller. It is given its stages and imports neither ray, vllm, deepspeed nor an HTTP library, so that a
test can drive it with small fakes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from openr1.algorithms.advantages import ESTIMATORS, RunningReward, group_normalized_advantages, has_signal
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.kl import KL_ESTIMATORS
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.shaping import adapt_kl_coef, clip_rewards, overlong_penalties
from openr1.config.train import TrainConfig
from openr1.errors import TrainingError
from openr1.rollout.producer import PromptSource, Reference, Rewards, Rollout, Sampled, Sampler, timed
from openr1.runtime.interrupts import Interrupts
from openr1.training.critic import Critic, begin_updates, with_values
from openr1.training.metrics import (
    Graded,
    dropped_metrics,
    failed_fraction,
    staleness_metrics,
    step_metrics,
    time_metrics,
)
from openr1.types import Group, Score, WeightVersion
from openr1.workers.update import LossSettings, OffPolicySettings


class Policy(Protocol):
    """The model that learns (`policy.group.PolicyGroup`)."""

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probs [B, T] under the current weights."""

    def update(self, batch: TrainBatch, loss: LossSettings) -> dict[str, float]:
        """One optimizer step; sums over response tokens."""

    def measure(self, batch: TrainBatch, loss: LossSettings) -> dict[str, float]:
        """What an update would tell, without one."""

    def push_weights(self, version: WeightVersion) -> None:
        """Bring the current weights to every engine."""


@dataclass(frozen=True)
class Estimated:
    """What a step's rewards became."""

    batch: TrainBatch  # all that the update reads: with advantages, masked where it must not train
    shaped: torch.Tensor  # [P, G] rewards that advantages were made of
    advantages: torch.Tensor  # [P, G]
    running_reward: RunningReward | None = None


Estimator = Callable[[int, Sampled, Callable[[], Estimated]], Estimated]
"""Gets the step, what it trains on, and what would estimate its advantages; returns what the update is to read."""


@dataclass(frozen=True)
class StepRecord:
    """What a step leaves behind, for the tracker.

    Scores are the server's; `shaped` are the rewards that advantages were made of. `dropped` was sampled, too, and
    trained nothing: dynamic sampling found no difference in it, or more than was needed.
    """

    step: int
    groups: list[Group]
    scores: list[list[Score]]
    shaped: torch.Tensor  # [P, G]
    advantages: torch.Tensor  # [P, G]
    dropped: Graded
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrainerState:
    """Where a trainer is between two steps; everything else follows from it, the config and the policy's own state."""

    step: int
    version: WeightVersion
    prompts: dict[str, int]
    running_reward: RunningReward | None = None
    kl_coef: float | None = None  # as adapted to algorithm.kl_target; None before the first step, or without one

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "TrainerState":
        """The state of which `values` is the `asdict`, as JSON gives it back."""
        running = values["running_reward"]
        return cls(**{**values, "running_reward": running and RunningReward(**running)})


class Trainer:
    """Runs steps; what is kept of them (tracking, checkpoints) is the caller's."""

    def __init__(
        self,
        config: TrainConfig,
        prompts: PromptSource,
        rollout: Rollout,
        rewards: Rewards,
        reference: Reference | None,
        policy: Policy,
        interrupts: Interrupts,
        on_step: Callable[[StepRecord], None],
        critic: Critic | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        """Take the stages. `reference` is None exactly where `has_reference` is False, `critic` where none learns.

        `estimator` stands just before the update, to record or to replay (`openr1.training.replay`).
        `on_step` is called at the end of every step, with interrupts held back: tracking and checkpoints.
        """
        self._config = config
        self._sampler = Sampler(config, prompts, rollout, rewards, reference, interrupts)
        self._policy = policy
        self._interrupts = interrupts
        self._on_step = on_step
        self._critic = critic
        self._estimator = estimator or (lambda step, sampled, estimate: estimate())
        self._state = TrainerState(step=0, version=0, prompts=prompts.state())
        self._ended: float | None = None

    @property
    def state(self) -> TrainerState:
        """The place after the last complete step."""
        return self._state

    def restore(self, state: TrainerState) -> None:
        """Continue after a complete step; the policy must hold that step's weights. Pushes them."""
        self._state = state
        self._sampler.restore(state.step, state.prompts)
        self._push_weights(state.version)

    def close(self) -> None:
        """End what samples ahead; no step can be made after it."""
        self._sampler.close()

    def step(self) -> StepRecord:
        """Make one step; returns what `on_step` was given.

        An error or interrupt before the update abandons the step: the state is that of the last complete one, and what
        goes on from it (`restore`) makes the step again, with the same prompts. From the update on an interrupt waits
        until the step is complete, `on_step` included.
        """
        start = self._step_start()
        seconds: dict[str, float] = {}
        with timed(seconds, "wait"):
            sampled = self._sampler.take(self._state.step + 1)
        everything = sampled.chosen + sampled.dropped
        groups, scores = [group for group, _ in sampled.chosen], [scores for _, scores in sampled.chosen]
        self._check_graded(everything)
        estimated = self._estimator(self._state.step + 1, sampled, lambda: self._estimate(sampled, seconds))
        batch, shaped, valid = estimated.batch, estimated.shaped, to_tensors(scores)[1]
        with self._interrupts.held_back():
            version = self._state.version + 1
            with timed(seconds, "update"):
                finish_critic = begin_updates(self._critic, batch, self._config)
                updates = self._update(batch)
                values = finish_critic()
            with timed(seconds, "sync"), self._sampler.between_steps():
                self._push_weights(version)
            metrics = step_metrics(everything, updates) | dropped_metrics(sampled.dropped) | values
            metrics |= staleness_metrics(groups, self._state.version)
            metrics["policy/kl_coef"] = self._kl_coef
            kl_coef = self._next_kl_coef(metrics["policy/kl"], len(batch))
            running = estimated.running_reward
            self._state = TrainerState(self._state.step + 1, version, sampled.prompts, running, kl_coef)
            metrics |= {
                "reward/shaped_mean": float(shaped[valid].mean()) if valid.any() else 0.0,
                "reward/signal_fraction": float(has_signal(shaped, valid).float().mean()),
            }
            self._ended = time.monotonic()
            seconds["step"] = self._ended - start
            metrics |= time_metrics(everything, sampled.seconds | seconds, version)
            record = StepRecord(
                self._state.step, groups, scores, shaped, estimated.advantages, sampled.dropped, metrics
            )
            self._on_step(record)
        return record

    def _step_start(self) -> float:
        """When the step began: above staleness 0 with the end of the one before, since it is sampled from then on."""
        now = time.monotonic()
        return now if self._config.rollout.max_staleness == 0 or self._ended is None else self._ended

    def _push_weights(self, version: WeightVersion) -> None:
        """Bring the weights to the engines; in a replay there are none."""
        if self._config.num_engines > 0:
            self._policy.push_weights(version)

    def _estimate(self, sampled: Sampled, seconds: dict[str, float]) -> Estimated:
        """Make advantages of scores."""
        groups, (rewards, valid) = [group for group, _ in sampled.chosen], to_tensors([s for _, s in sampled.chosen])
        rewards, kl_costs = self._shape(rewards, sampled.batch), self._kl_costs(sampled.batch)
        shaped = rewards - kl_costs.sum(-1).view_as(rewards)
        batch = sampled.batch.without(~(valid & self._may_train(groups)).flatten())
        if self._critic is None:
            advantages, running = self._advantages(shaped, valid)
            return Estimated(batch.with_advantages(advantages.flatten()), shaped, advantages, running)
        with timed(seconds, "values"):
            batch = with_values(self._critic, batch, rewards.flatten(), kl_costs, self._config.algorithm)
        return Estimated(batch, shaped, batch.mean_advantages.view_as(shaped))

    def _check_graded(self, sampled: Graded) -> None:
        """Refuse a step of which too much is not known; groups that were dropped for it count, too.

        Raises:
            TrainingError: More responses stayed ungraded than `reward.max_failed_fraction` allows.
        """
        scores = [score for _, scores in sampled for score in scores]
        failed, allowed = failed_fraction(scores), self._config.reward.max_failed_fraction
        if failed > allowed:
            first = next(score.error for score in scores if not score.valid)
            raise TrainingError(
                f"step {self._state.step + 1}: {failed:.1%} of the responses could not be graded, more than "
                f"reward.max_failed_fraction {allowed:g} allows; the first error: {first}"
            )

    def _shape(self, rewards: torch.Tensor, batch: TrainBatch) -> torch.Tensor:
        """Rewards [P, G], clipped, then less what length costs."""
        settings = self._config.reward
        if settings.clip is not None:
            rewards = clip_rewards(rewards, *settings.clip)
        if settings.overlong_buffer_len > 0:
            lengths = batch.response_mask.sum(-1).view_as(rewards)
            longest = self._config.rollout.generate_max_len
            penalties = overlong_penalties(lengths, longest, settings.overlong_buffer_len)
            rewards = rewards + settings.overlong_penalty * penalties
        return rewards

    def _kl_costs(self, batch: TrainBatch) -> torch.Tensor:
        """What distance from the reference takes off the reward, by token [B, T]; 0 where KL is not in the reward."""
        algorithm = self._config.algorithm
        if batch.ref_log_probs is None or algorithm.kl_in == "loss":
            return torch.zeros_like(batch.rollout_log_probs)
        kl = KL_ESTIMATORS[algorithm.kl_estimator](batch.rollout_log_probs, batch.ref_log_probs)
        return self._kl_coef * kl * batch.response_mask

    def _advantages(self, rewards: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, RunningReward | None]:
        """Advantages [P, G], and the running reward with this step's."""
        algorithm, past = self._config.algorithm, self._state.running_reward
        if algorithm.reward_momentum > 0:
            advantages = group_normalized_advantages(rewards, valid, past, algorithm.reward_momentum)
        else:
            advantages = ESTIMATORS[algorithm.advantage_estimator](rewards, valid)
        return advantages, RunningReward.updated(past, algorithm.reward_momentum, rewards[valid])

    def _may_train(self, groups: list[Group]) -> torch.Tensor:
        """False [P, G] for responses that were cut off, where these are to be masked."""
        masked = self._config.algorithm.mask_truncated
        return torch.tensor([[not (masked and response.truncated) for response in group.responses] for group in groups])

    @property
    def _kl_coef(self) -> float:
        """The weight of KL in this step."""
        adapted = self._state.kl_coef
        return self._config.algorithm.init_kl_coef if adapted is None else adapted

    def _next_kl_coef(self, kl: float, num_responses: int) -> float | None:
        """The weight of KL in the next step: adapted where it is to be, by steps in which the policy learned."""
        algorithm = self._config.algorithm
        if algorithm.kl_target is None or not self._policy_learns:
            return self._state.kl_coef
        return adapt_kl_coef(self._kl_coef, kl, algorithm.kl_target, num_responses, algorithm.kl_horizon)

    @property
    def _policy_learns(self) -> bool:
        """Not in the warm-up of a critic, nor with `debug.rollout_only`."""
        return self._state.step >= self._config.critic.warmup_steps and not self._config.debug.rollout_only

    def _loss_settings(self) -> LossSettings:
        algorithm = self._config.algorithm
        return LossSettings(
            policy_loss=algorithm.policy_loss,
            bounds=ClipBounds(algorithm.eps_clip_low, algorithm.eps_clip_high, algorithm.dual_clip),
            kl_coef=self._kl_coef if algorithm.kl_in == "loss" else 0.0,
            kl_estimator=algorithm.kl_estimator,
            entropy_coef=algorithm.entropy_coef,
            off_policy=OffPolicySettings(
                **self._config.off_policy.model_dump() | {"importance": self._config.importance}
            ),
        )

    def _update(self, batch: TrainBatch) -> list[dict[str, float]]:
        """One optimizer step for each `train_batch_size` responses, in order, as many times as there are epochs.

        With one, the ratio to the old policy is 1 by construction; with more, the log-probs from before the first
        are needed. Where the policy does not learn, it stays as it is.
        """
        algorithm, loss = self._config.algorithm, self._loss_settings()
        if self._config.updates_per_step > 1:
            batch = replace(batch, old_log_probs=self._policy.log_probs(batch))
        size, longest = self._config.policy.train_batch_size, self._config.rollout.generate_max_len
        weighed = batch.weighed_parts(size, algorithm.loss_aggregation, longest)
        if batch.ref_log_probs is None and loss.entropy_coef == 0:
            weighed = [part.with_signal() for part in weighed]
        if not self._policy_learns:
            return [self._policy.measure(part, loss) for part in weighed]
        return [self._policy.update(part, loss) for _ in range(algorithm.max_epochs) for part in weighed]


def to_tensors(scores: list[list[Score]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards and their validity, both [P, G]; 0 where a response could not be graded."""
    valid = torch.tensor([[score.valid for score in group] for group in scores])
    return torch.tensor([[score.reward or 0.0 for score in group] for group in scores], dtype=torch.float32), valid
