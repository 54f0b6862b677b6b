"""The loop: prompts -> rollout -> rewards -> advantages -> policy update -> weight sync.

A single controller. It is given its stages and imports neither ray, vllm, deepspeed nor an HTTP library, so that a
test can drive it with small fakes.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from openr1.algorithms.advantages import ESTIMATORS, RunningReward, group_normalized_advantages, has_signal
from openr1.algorithms.kl import KL_ESTIMATORS
from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.shaping import adapt_kl_coef, clip_rewards, overlong_penalties
from openr1.batch import TrainBatch
from openr1.config import TrainConfig
from openr1.critic import Critic, begin_updates, with_values
from openr1.errors import TrainingError
from openr1.interrupt import Interrupts
from openr1.policy.update import LossSettings, OffPolicySettings
from openr1.records import Group, Prompt, Score, WeightVersion
from openr1.rollout.sampling import Sampling
from openr1.step_metrics import Graded, dropped_metrics, failed_fraction, has_both, step_metrics


class PromptSource(Protocol):
    """Where prompts come from (`prompts.PromptStream`)."""

    def take(self, count: int) -> list[Prompt]:
        """The next prompts, all different."""

    def state(self) -> dict[str, int]:
        """The place in the stream."""

    def restore(self, state: dict[str, int]) -> None:
        """Go to a place in the stream."""


class Rollout(Protocol):
    """Generation (`rollout.pool.RolloutPool`)."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
        """Yield each prompt's group as soon as it is finished."""


class Rewards(Protocol):
    """Scoring (`rewards.RewardClient`)."""

    def submit(self, group: Group) -> "Future[list[Score]]":
        """Ask for a group's scores; returns at once."""


class Reference(Protocol):
    """Reference log-probs (`policy.group.ReferenceLine`)."""

    def submit(self, group: Group) -> None:
        """Ask for a group's log-probs; returns at once."""

    def collect(self, groups: Sequence[Group]) -> torch.Tensor:
        """Log-probs of all response tokens of the groups, all submitted, in one row and in their order."""


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
    ) -> None:
        """Take the stages. `reference` is None exactly where `algorithm.init_kl_coef` is 0, `critic` where none learns.

        `on_step` is called at the end of every step, with interrupts held back: tracking and checkpoints.
        """
        self._config = config
        self._prompts = prompts
        self._rollout = rollout
        self._rewards = rewards
        self._reference = reference
        self._policy = policy
        self._interrupts = interrupts
        self._on_step = on_step
        self._critic = critic
        self._state = TrainerState(step=0, version=0, prompts=prompts.state())
        self._seconds: dict[str, float] = {}

    @property
    def state(self) -> TrainerState:
        """The place after the last complete step."""
        return self._state

    def restore(self, state: TrainerState) -> None:
        """Continue after a complete step; the policy must hold that step's weights. Pushes them."""
        self._state = state
        self._policy.push_weights(state.version)

    def step(self) -> StepRecord:
        """Make one step; returns what `on_step` was given.

        An interrupt before the update abandons the step: nothing has changed, and its prompts come again. From the
        update on it waits until the step is complete, `on_step` included.
        """
        self._seconds = {}
        start = time.monotonic()
        self._prompts.restore(self._state.prompts)
        chosen, dropped = self._sample()
        groups, scores = [group for group, _ in chosen], [scores for _, scores in chosen]
        self._check_graded(chosen + dropped)
        rewards, valid = to_tensors(scores)
        batch = self._batch(groups)
        rewards, kl_costs = self._shape(rewards, batch), self._kl_costs(batch)
        shaped = rewards - kl_costs.sum(-1).view_as(rewards)
        batch = batch.without(~(valid & self._may_train(groups)).flatten())
        if self._critic is None:
            advantages, running = self._advantages(shaped, valid)
            batch = batch.with_advantages(advantages.flatten())
        else:
            with self._timed("values"):
                batch = with_values(self._critic, batch, rewards.flatten(), kl_costs, self._config.algorithm)
            advantages, running = batch.mean_advantages.view_as(shaped), None
        with self._interrupts.held_back():
            version = self._state.version + 1
            with self._timed("update"):
                finish_critic = begin_updates(self._critic, batch, self._config)
                updates = self._update(batch)
                values = finish_critic()
            with self._timed("sync"):
                self._policy.push_weights(version)
            metrics = step_metrics(chosen + dropped, updates) | dropped_metrics(dropped) | values
            metrics["policy/kl_coef"] = self._kl_coef
            kl_coef = self._next_kl_coef(metrics["policy/kl"], len(batch))
            self._state = TrainerState(self._state.step + 1, version, self._prompts.state(), running, kl_coef)
            self._seconds["step"] = time.monotonic() - start
            metrics |= self._own_metrics(chosen + dropped, shaped, valid)
            record = StepRecord(self._state.step, groups, scores, shaped, advantages, dropped, metrics)
            self._on_step(record)
        return record

    def _sample(self) -> tuple[Graded, Graded]:
        """Groups to train on, in the order in which they were asked for, and those that were sampled in vain.

        With dynamic sampling, groups whose answers are all right or all wrong are replaced by others, as many rounds as
        are allowed; what is then still missing is filled up with them.
        """
        wanted, rounds = self._config.rollout.rollout_batch_size, self._config.algorithm.dynamic_sampling_rounds
        sampled: Graded = []
        useful: list[int] = []
        count = wanted
        for _ in range(rounds):
            asked = {group.prompt.id for group, _ in sampled}
            prompts = [prompt for prompt in self._prompts.take(count) if prompt.id not in asked]
            if not prompts:
                break  # The dataset has no others.
            for graded in self._roll_out(prompts):
                if rounds == 1 or has_both(graded[1]):
                    useful.append(len(sampled))
                sampled.append(graded)
            if len(useful) >= wanted:
                break
            # As many as will do, if they are useful as often as those before.
            count = min(wanted, math.ceil((wanted - len(useful)) * len(sampled) / max(len(useful), 1)))
        others = [index for index in range(len(sampled)) if index not in useful]
        chosen = set((useful + others)[:wanted])
        parts = {
            taken: [graded for index, graded in enumerate(sampled) if (index in chosen) == taken]
            for taken in (True, False)
        }
        return parts[True], parts[False]

    def _roll_out(self, prompts: list[Prompt]) -> Graded:
        """Generate; each finished group is scored, and read by the reference, while others still generate."""
        finished: dict[str, tuple[Group, Future[list[Score]]]] = {}
        with self._timed("generate"):
            for group in self._rollout.generate(prompts, self._sampling()):
                if self._reference is not None and self._config.algorithm.dynamic_sampling_rounds == 1:
                    self._reference.submit(group)
                finished[group.prompt.id] = (group, self._rewards.submit(group))
        with self._timed("reward"):
            # In the order of the prompts, so that the batch does not depend on which group finished first.
            return [(group, future.result()) for group, future in (finished[prompt.id] for prompt in prompts)]

    def _batch(self, groups: list[Group]) -> TrainBatch:
        """The groups' tokens, with log-probs of engine and reference."""
        batch = TrainBatch.from_groups(groups)
        with self._timed("reference"):
            if self._reference is None:
                return batch
            if self._config.algorithm.dynamic_sampling_rounds > 1:
                for group in groups:
                    self._reference.submit(group)
            ref_log_probs = torch.zeros_like(batch.rollout_log_probs)
            ref_log_probs[batch.response_mask] = self._reference.collect(groups)
            return replace(batch, ref_log_probs=ref_log_probs)

    def _sampling(self) -> Sampling:
        rollout = self._config.rollout
        return Sampling(
            n_samples_per_prompt=rollout.n_samples_per_prompt,
            generate_max_len=rollout.generate_max_len,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            seed=self._config.run.seed,
            seed_stream=f"train/{self._state.step}",
        )

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
        """The weight of KL in the next step, where it is adapted."""
        algorithm = self._config.algorithm
        if algorithm.kl_target is None:
            return None
        return adapt_kl_coef(self._kl_coef, kl, algorithm.kl_target, num_responses, algorithm.kl_horizon)

    def _loss_settings(self) -> LossSettings:
        algorithm = self._config.algorithm
        return LossSettings(
            policy_loss=algorithm.policy_loss,
            bounds=ClipBounds(algorithm.eps_clip_low, algorithm.eps_clip_high, algorithm.dual_clip),
            kl_coef=self._kl_coef if algorithm.kl_in == "loss" else 0.0,
            kl_estimator=algorithm.kl_estimator,
            entropy_coef=algorithm.entropy_coef,
            off_policy=OffPolicySettings(**self._config.off_policy.model_dump()),
        )

    def _update(self, batch: TrainBatch) -> list[dict[str, float]]:
        """One optimizer step for each `train_batch_size` responses, in order, as many times as there are epochs.

        With one, the ratio to the old policy is 1 by construction; with more, the log-probs from before the first
        are needed. In the warm-up of a critic the policy stays as it is.
        """
        algorithm, loss = self._config.algorithm, self._loss_settings()
        if self._config.updates_per_step > 1:
            batch = replace(batch, old_log_probs=self._policy.log_probs(batch))
        size, longest = self._config.policy.train_batch_size, self._config.rollout.generate_max_len
        weighed = batch.weighed_parts(size, algorithm.loss_aggregation, longest)
        if self._reference is None and loss.entropy_coef == 0:
            weighed = [part.with_signal() for part in weighed]
        if self._state.step < self._config.critic.warmup_steps:
            return [self._policy.measure(part, loss) for part in weighed]
        return [self._policy.update(part, loss) for _ in range(algorithm.max_epochs) for part in weighed]

    def _own_metrics(self, sampled: Graded, shaped: torch.Tensor, valid: torch.Tensor) -> dict[str, float]:
        seconds = self._seconds
        return {
            "reward/shaped_mean": float(shaped[valid].mean()) if valid.any() else 0.0,
            "reward/signal_fraction": float(has_signal(shaped, valid).float().mean()),
            "sync/seconds": seconds["sync"],
            "sync/version": self._state.version,
            "throughput/tokens_per_second": sum(group.num_tokens for group, _ in sampled) / seconds["step"],
        } | {f"time/{phase}_seconds": seconds[phase] for phase in seconds}

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Add the block's wall time to the phase."""
        start = time.monotonic()
        yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.monotonic() - start


def to_tensors(scores: list[list[Score]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards and their validity, both [P, G]; 0 where a response could not be graded."""
    valid = torch.tensor([[score.valid for score in group] for group in scores])
    return torch.tensor([[score.reward or 0.0 for score in group] for group in scores], dtype=torch.float32), valid
