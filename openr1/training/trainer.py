"""The algorithm: prompts -> rollout -> rewards -> advantages -> policy update -> weight sync.

A single controller. It is given its stages and imports neither ray, vllm, deepspeed nor an HTTP library, so that a test
can drive it with small fakes.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.kl import adapt_kl_coef
from openr1.algorithms.losses import LOSSES, ClipBounds
from openr1.algorithms.objectives.policy import PolicyObjective
from openr1.algorithms.off_policy import OffPolicyCorrection
from openr1.config.train import TrainConfig
from openr1.errors import TrainingError
from openr1.interfaces import Critic, GpuMemory, Policy
from openr1.rollout.experience import Experience, StepResult, timed
from openr1.runtime.faults import FAULTS
from openr1.runtime.interrupts import Interrupts
from openr1.training.critic import begin_critic_updates
from openr1.training.metrics import StepUpdates, failed_fraction, skip_metrics, step_metrics, time_metrics
from openr1.training.reward_shaping import shape_rewards
from openr1.types import RunningReward, TrainerState, WeightVersion

AdvantageStage = Callable[[Experience, RunningReward | None], Experience]
"""Fills in advantages (`training.advantage_stage.AdvantageEstimation`); gets the running reward of the steps before."""


class ExperienceSource(Protocol):
    """Where experience comes from (`rollout.producer.ExperienceProducer`)."""

    def next(self, step: int) -> Experience:
        """The experience of a step: generated, scored, with reference log-probs. Steps are taken in order."""

    def paused(self) -> AbstractContextManager[None]:
        """For the block, which pushes new weights, sampling rests if the configuration says so."""

    def state(self) -> dict[str, int]:
        """The position in the data."""

    def restore(self, step: int, prompts: dict[str, int]) -> None:
        """Continue after a step, at a position in the data."""

    def close(self) -> None:
        """End what samples ahead."""


class Trainer:
    """Makes steps. What is kept of them (records, checkpoints) is the caller's."""

    def __init__(
        self,
        config: TrainConfig,
        experiences: ExperienceSource,
        estimate_advantages: AdvantageStage,
        policy: Policy,
        critic: Critic | None,
        memory: GpuMemory,
        interrupts: Interrupts,
    ) -> None:
        """Take the stages; `critic` is None unless the estimator is gae."""
        self._config = config
        self._experiences = experiences
        self._estimate_advantages = estimate_advantages
        self._policy = policy
        self._critic = critic
        self._memory = memory
        self._interrupts = interrupts
        self._state = TrainerState(step=0, version=0, prompts=experiences.state())
        self._last_end: float | None = None
        self._is_updating = False

    @property
    def holds_state(self) -> bool:
        """Whether the policy holds the weights of `state`: False from the start of an update to the end of its step."""
        return not self._is_updating

    @property
    def state(self) -> TrainerState:
        """The state after the last complete step."""
        return self._state

    def restore(self, state: TrainerState) -> None:
        """Continue after a complete step; the policy must hold that step's weights. Pushes them."""
        self._state = state
        self._experiences.restore(state.step, state.prompts)
        self._push(state.version)

    def close(self) -> None:
        """End what samples ahead; no step can be made after it."""
        self._experiences.close()

    def step(self) -> StepResult:
        """Make one step.

        An error or interrupt before the update abandons the step: the state is that of the last complete one, and
        whatever continues from it (`restore`) makes the step again, with the same prompts. From the update on an
        interrupt is deferred to the end of the caller's `Interrupts.section`, so that the step is also recorded.
        """
        start = self._start_time()
        with self._interrupts.section():
            experience = self._experiences.next(self._state.step + 1)  # generate, score, reference log-probs
            self._check_graded(experience)
            experience = shape_rewards(experience, self._config, self._kl_coef)
            experience = self._estimate_advantages(experience, self._state.running_reward)
            self._interrupts.defer()
            self._is_updating = True
            with timed(experience.seconds, "update"):
                self._memory.for_training()
                updates = self._update(experience.batch)
            with timed(experience.seconds, "sync"), self._experiences.paused():
                self._push(self._state.version + 1)
            return self._report(experience, updates, start)

    def _check_graded(self, experience: Experience) -> None:
        """Refuse a step of which too much is unknown; dropped groups count, too.

        Raises:
            TrainingError: More responses are ungraded than `reward.max_failed_fraction` allows.
        """
        grades = [grade for scored in experience.sampled for grade in scored.grades]
        failed, allowed = failed_fraction(grades), self._config.reward.max_failed_fraction
        if failed > allowed:
            first = next(grade.error for grade in grades if not grade.valid)
            raise TrainingError(
                f"step {experience.step}: {failed:.1%} of the responses could not be graded, more than "
                f"reward.max_failed_fraction {allowed:g} allows; the first error: {first}"
            )

    def _update(self, batch: TrainBatch) -> StepUpdates:
        """One optimizer step per mini-batch of `train_batch_size` responses, `max_epochs` times; the critic alongside.

        During the critic's warm-up the policy's loss is only evaluated.
        """
        FAULTS.at("update")
        config, algorithm = self._config, self._config.algorithm
        finish_critic = begin_critic_updates(self._critic, batch, config)
        mini_batches = self._mini_batches(batch)
        objective = self._objective()
        if batch.ref_log_probs is None and objective.entropy_coef == 0 and algorithm.policy_loss in LOSSES:
            # The gradient of every built-in loss is proportional to the advantage; of others nothing is known.
            mini_batches = [mini_batch.drop_zero_advantage() for mini_batch in mini_batches]
        apply = self._state.step >= config.critic.warmup_steps
        epochs = algorithm.max_epochs if apply else 1
        policy = [self._policy.step(part, objective, apply) for _ in range(epochs) for part in mini_batches]
        return StepUpdates(policy, finish_critic())

    def _mini_batches(self, batch: TrainBatch) -> list[TrainBatch]:
        """The mini-batches, with log-probs from before the step's updates where these have changed the policy.

        A mini-batch that is trained on once, and first, needs none: its ratio to the old policy is 1 by construction.
        """
        algorithm, size = self._config.algorithm, self._config.policy.train_batch_size
        num_unchanged = size if algorithm.max_epochs == 1 else 0
        parts = [batch.select(range(num_unchanged))] if num_unchanged else []
        if num_unchanged < len(batch):
            later = batch.select(range(num_unchanged, len(batch)))
            parts.append(replace(later, old_log_probs=self._policy.log_probs(later)))
        aggregation, longest = algorithm.loss_aggregation, self._config.rollout.generate_max_len
        return [mini_batch for part in parts for mini_batch in part.mini_batches(size, aggregation, longest)]

    def _objective(self) -> PolicyObjective:
        algorithm, off_policy = self._config.algorithm, self._config.off_policy
        return PolicyObjective(
            policy_loss=algorithm.policy_loss,
            bounds=ClipBounds(
                algorithm.eps_clip_low, algorithm.eps_clip_high, algorithm.dual_clip, algorithm.soft_clip
            ),
            kl_coef=self._kl_coef if algorithm.kl_in == "loss" else 0.0,
            kl_estimator=algorithm.kl_estimator,
            entropy_coef=algorithm.entropy_coef,
            off_policy=OffPolicyCorrection(**off_policy.model_dump() | {"importance": self._config.importance}),
        )

    def _push(self, version: WeightVersion) -> None:
        """Bring the policy's weights to the engines, which have the memory of shared GPUs from then on."""
        FAULTS.at("push")
        self._memory.for_generation()
        self._policy.push_weights(version)

    def _report(self, experience: Experience, updates: StepUpdates, start: float) -> StepResult:
        """Advance the state and assemble the step's metrics."""
        before = self._state
        version: WeightVersion = before.version + 1
        metrics = step_metrics(experience, updates, version, self._kl_coef)
        metrics |= skip_metrics(before.prompts, experience.prompts)
        kl_coef = self._next_kl_coef(metrics["policy/kl"], len(experience.batch), updates)
        self._state = TrainerState(experience.step, version, experience.prompts, experience.running_reward, kl_coef)
        self._last_end = time.monotonic()
        self._is_updating = False
        return StepResult(experience, metrics | time_metrics(experience, self._last_end - start))

    @property
    def _kl_coef(self) -> float:
        """The KL coefficient of this step."""
        adapted = self._state.kl_coef
        return self._config.algorithm.init_kl_coef if adapted is None else adapted

    def _next_kl_coef(self, kl: float, num_responses: int, updates: StepUpdates) -> float | None:
        """The KL coefficient of the next step; adapted only by steps in which the policy was updated."""
        algorithm = self._config.algorithm
        if algorithm.kl_target is None or not updates.policy[0].applied:
            return self._state.kl_coef
        return adapt_kl_coef(self._kl_coef, kl, algorithm.kl_target, num_responses, algorithm.kl_horizon)

    def _start_time(self) -> float:
        """When the step began: with policy lag at the end of the step before, since it is sampled from then on."""
        now = time.monotonic()
        return now if self._config.rollout.max_staleness == 0 or self._last_end is None else self._last_end
