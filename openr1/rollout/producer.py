"""Makes the experience of each step: prompts -> rollout -> rewards and reference, ahead of the policy if allowed."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import TypeVar

import torch

from openr1.algorithms.advantages import has_reward_variance
from openr1.algorithms.batch import TrainBatch
from openr1.config.train import TrainConfig
from openr1.interfaces import PromptSource, Reference, RewardSource, Rollout
from openr1.rollout.experience import Experience, timed, to_rewards
from openr1.rollout.sampling_params import training_sampling
from openr1.runtime.faults import FAULTS
from openr1.runtime.interrupts import POLL_SECONDS, Interrupts
from openr1.types import Grade, Group, Prompt, SamplingParams, ScoredGroup

Result = TypeVar("Result")

CLOSE_SECONDS = 5.0
"""Longest wait for the thread to end."""


class ExperienceProducer:
    """Produces one step's experience after the other; with policy lag, on a thread and ahead of training.

    With `rollout.max_staleness` s, sampling of step n starts when step n - s is taken, so its weights are at most s
    steps old when step n trains; this also bounds the queue. With s = 0 nothing runs ahead, and `next` samples in the
    caller's thread.
    """

    def __init__(
        self,
        config: TrainConfig,
        prompts: PromptSource,
        rollout: Rollout,
        rewards: RewardSource,
        reference: Reference | None,
        interrupts: Interrupts,
    ) -> None:
        """Take the stages; nothing is sampled yet."""
        self._config = config
        self._prompts = prompts
        self._rollout = rollout
        self._rewards = rewards
        self._reference = reference
        self._interrupts = interrupts
        self._orders: SimpleQueue[tuple[int, Future[Experience]] | None] = SimpleQueue()
        self._ahead: deque[Future[Experience]] = deque()
        self._last_ordered = 0
        # `_sampling` is held while a step is being sampled. `_turn` makes the two locks fair: whoever waits for
        # `_sampling` holds it, so that a pending weight push comes before the next step.
        self._sampling = threading.Lock()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="experience-producer", daemon=True)

    def state(self) -> dict[str, int]:
        """The position in the data."""
        return self._prompts.state()

    def restore(self, step: int, prompts: dict[str, int]) -> None:
        """Continue after a step, at a position in the data; nothing may have been taken before."""
        self._last_ordered = step
        self._prompts.restore(prompts)

    def next(self, step: int) -> Experience:
        """The experience of a step; steps are taken in order. An error of any stage is raised here.

        With staleness 0, a step that ended in an error has changed nothing: its prompts come again. Above 0, no further
        step can be taken after an error.
        """
        start = time.monotonic()
        experience = self._take(step)
        return replace(experience, seconds=experience.seconds | {"wait": time.monotonic() - start})

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For the block, which pushes new weights: if `rollout.in_flight` is drain, no step is being sampled."""
        if self._config.rollout.in_flight == "keep":
            yield
            return
        with self._turn:
            self._sampling.acquire()
        try:
            yield
        finally:
            self._sampling.release()

    def close(self) -> None:
        """End the thread: its waits raise from now on. What it has sampled ahead is lost."""
        self._interrupts.end(self._thread)
        self._orders.put(None)
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _take(self, step: int) -> Experience:
        ahead = self._config.rollout.max_staleness
        if ahead == 0:
            return self._sample_step(step)
        if not self._thread.is_alive():
            self._thread.start()
        while self._last_ordered < min(step + ahead, self._config.num_steps):
            self._last_ordered += 1
            future: Future[Experience] = Future()
            self._ahead.append(future)
            self._orders.put((self._last_ordered, future))
        self._result(self._ahead[0])
        return self._ahead.popleft().result()

    def _result(self, future: "Future[Result]") -> Result:
        """Wait for a future, noticing signals. Whoever fulfils it bounds the wait."""
        while not wait([future], POLL_SECONDS).done:
            self._interrupts.check()
        return future.result()

    def _work(self) -> None:
        """On the thread: sample the steps that are ordered, one after the other."""
        while (order := self._orders.get()) is not None:
            step, future = order
            with self._turn:
                self._sampling.acquire()
            try:
                future.set_result(self._sample_step(step))
            except BaseException as error:  # noqa: BLE001 (interrupts, too, are for the thread that waits)
                future.set_exception(error)
            finally:
                self._sampling.release()

    def _sample_step(self, step: int) -> Experience:
        """Sample one step from where the one before left the data; after an error the data is back there."""
        position = self._prompts.state()
        seconds: dict[str, float] = {}
        FAULTS.at("experience")
        try:
            sampling = training_sampling(self._config, seed_stream(step))
            scored, dropped = self._choose_groups(sampling, seconds)
            batch = self._build_batch([one.group for one in scored], seconds)
        except BaseException:
            self._prompts.restore(position)
            raise
        return Experience(step, scored, dropped, batch, self._prompts.state(), *to_rewards(scored), seconds)

    def _choose_groups(
        self, sampling: SamplingParams, seconds: dict[str, float]
    ) -> tuple[list[ScoredGroup], list[ScoredGroup]]:
        """Groups to train on, in the order of their prompts, and those that are dropped.

        With dynamic sampling, groups whose answers are all right or all wrong are replaced by others, for as many
        rounds as are allowed; what is then still missing is filled up with them.
        """
        wanted, rounds = self._config.rollout.rollout_batch_size, self._config.algorithm.dynamic_sampling_rounds
        sampled: list[ScoredGroup] = []
        useful: list[int] = []
        count = wanted
        for _ in range(rounds):
            asked = {one.group.prompt.id for one in sampled}
            prompts = [prompt for prompt in self._prompts.take(count) if prompt.id not in asked]
            if not prompts:
                break  # The dataset has no others.
            for one in self._generate_and_score(prompts, sampling, seconds):
                if rounds == 1 or has_mixed_outcomes(one.grades):
                    useful.append(len(sampled))
                sampled.append(one)
            if len(useful) >= wanted:
                break
            # As many as will do if they are useful as often as those before.
            count = min(wanted, math.ceil((wanted - len(useful)) * len(sampled) / max(len(useful), 1)))
        others = [index for index in range(len(sampled)) if index not in useful]
        chosen = set((useful + others)[:wanted])
        trained = [one for index, one in enumerate(sampled) if index in chosen]
        return trained, [one for index, one in enumerate(sampled) if index not in chosen]

    def _generate_and_score(
        self, prompts: list[Prompt], sampling: SamplingParams, seconds: dict[str, float]
    ) -> list[ScoredGroup]:
        """Generate; each finished group goes to the reward server and the reference while others still generate."""
        finished: dict[str, tuple[Group, Future[list[Grade]]]] = {}
        with timed(seconds, "generate"):
            for group in self._rollout.generate(prompts, sampling):
                if self._reference is not None and self._config.algorithm.dynamic_sampling_rounds == 1:
                    self._reference.submit(group)
                finished[group.prompt.id] = (group, self._rewards.submit(group))
        with timed(seconds, "reward"):
            # In the order of the prompts, so that the batch does not depend on which group finished first.
            in_order = [finished[prompt.id] for prompt in prompts]
            grades = [self._result(future) for _, future in in_order]
            return [ScoredGroup(group, tuple(one)) for (group, _), one in zip(in_order, grades, strict=True)]

    def _build_batch(self, groups: list[Group], seconds: dict[str, float]) -> TrainBatch:
        """The groups' tokens, with log-probs of engine and reference."""
        batch = TrainBatch.from_groups(groups)
        with timed(seconds, "reference"):
            if self._reference is None:
                return batch
            if self._config.algorithm.dynamic_sampling_rounds > 1:
                for group in groups:
                    self._reference.submit(group)
            ref_log_probs = torch.zeros_like(batch.rollout_log_probs)
            ref_log_probs[batch.response_mask] = self._reference.collect(groups)
            return replace(batch, ref_log_probs=ref_log_probs)


def seed_stream(step: int) -> str:
    """The seed stream of a step: the number of steps before it, in the order of the data."""
    return f"train/{step - 1}"


def has_mixed_outcomes(grades: Sequence[Grade]) -> bool:
    """Whether a group has both right and wrong answers; ungraded ones do not count.

    What dynamic sampling keeps (DAPO, arXiv:2503.14476, equation 11). The score decides, not the reward: shaping makes
    rewards differ even if all answers are wrong.
    """
    scores = torch.tensor([[0.0 if grade.score is None else grade.score for grade in grades]])
    return bool(has_reward_variance(scores, torch.tensor([[grade.valid for grade in grades]])))
