"""What steps train on: prompts -> rollout -> rewards and reference; ahead of the policy where that is allowed."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Protocol, TypeVar

import torch

from openr1.algorithms.batch import TrainBatch
from openr1.config.train import TrainConfig
from openr1.rollout.sampling_params import Sampling
from openr1.runtime.interrupts import POLL_SECONDS, Interrupts
from openr1.training.metrics import Graded, has_both
from openr1.types import Group, Prompt, Score

Result = TypeVar("Result")

CLOSE_SECONDS = 5.0
"""Longest wait for the thread to end."""


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


@dataclass(frozen=True)
class Sampled:
    """What one step trains on.

    Attributes:
        chosen: Groups to train on, in the order in which they were asked for.
        dropped: Groups that were sampled in vain (dynamic sampling).
        batch: The tokens of `chosen`, with log-probs of engine and reference.
        prompts: The place in the data after it.
        seconds: Wall time of each phase.
    """

    chosen: Graded
    dropped: Graded
    batch: TrainBatch
    prompts: dict[str, int]
    seconds: dict[str, float]


class Sampler:
    """Samples one step after the other; with `rollout.max_staleness` s, up to s steps ahead, in a thread of its own.

    Step n is begun when step n - s is taken: by weights that are at most s steps old when step n trains. The queue is
    bounded by that. With s = 0 nothing runs ahead, and `take` samples in the caller's thread.
    """

    def __init__(
        self,
        config: TrainConfig,
        prompts: PromptSource,
        rollout: Rollout,
        rewards: Rewards,
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
        self._orders: SimpleQueue[tuple[int, Future[Sampled]] | None] = SimpleQueue()
        self._ahead: deque[Future[Sampled]] = deque()
        self._ordered = 0
        self._sampling_one = threading.Lock()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)

    def restore(self, step: int, prompts: dict[str, int]) -> None:
        """Continue after a step, at a place in the data; nothing may have been taken before."""
        self._ordered = step
        self._prompts.restore(prompts)

    def take(self, step: int) -> Sampled:
        """What a step trains on, once; steps are taken in order. An error of any stage is raised here.

        With staleness 0, a step that ended in an error has changed nothing: its prompts come again. Above, no further
        step can be taken after an error.
        """
        ahead = self._config.rollout.max_staleness
        if ahead == 0:
            return self._sample(step)
        if not self._thread.is_alive():
            self._thread.start()
        while self._ordered < min(step + ahead, self._config.num_steps):
            self._ordered += 1
            future: Future[Sampled] = Future()
            self._ahead.append(future)
            self._orders.put((self._ordered, future))
        self._result(self._ahead[0])
        return self._ahead.popleft().result()

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """For the block, which brings new weights, nothing is being sampled, if `rollout.in_flight` is drain."""
        if self._config.rollout.in_flight == "keep":
            yield
            return
        with self._turn:
            self._sampling_one.acquire()
        try:
            yield
        finally:
            self._sampling_one.release()

    def close(self) -> None:
        """End the thread: its waits raise from now on. What it has sampled ahead is lost."""
        self._interrupts.end(self._thread)
        self._orders.put(None)
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _result(self, future: "Future[Result]") -> Result:
        """What the future holds, or raises. Its maker bounds the wait; signals are noticed."""
        while not wait([future], POLL_SECONDS).done:
            self._interrupts.check()
        return future.result()

    def _work(self) -> None:
        """Sample what is ordered, one step after the other."""
        while (order := self._orders.get()) is not None:
            step, future = order
            # Whoever waits for `between_steps` holds the turn, and comes before the next step.
            with self._turn:
                self._sampling_one.acquire()
            try:
                future.set_result(self._sample(step))
            except BaseException as error:  # noqa: BLE001 (interrupts, too, are for the thread that waits)
                future.set_exception(error)
            finally:
                self._sampling_one.release()

    def _sample(self, step: int) -> Sampled:
        """Sample one step from the place where the one before left the data."""
        place = self._prompts.state()
        seconds: dict[str, float] = {}
        try:
            chosen, dropped = self._choose(Sampling.of_training(self._config, train_stream(step)), seconds)
            batch = self._batch([group for group, _ in chosen], seconds)
        except BaseException:
            self._prompts.restore(place)
            raise
        return Sampled(chosen, dropped, batch, self._prompts.state(), seconds)

    def _choose(self, sampling: Sampling, seconds: dict[str, float]) -> tuple[Graded, Graded]:
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
            for graded in self._roll_out(prompts, sampling, seconds):
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

    def _roll_out(self, prompts: list[Prompt], sampling: Sampling, seconds: dict[str, float]) -> Graded:
        """Generate; each finished group is scored, and read by the reference, while others still generate."""
        finished: dict[str, tuple[Group, Future[list[Score]]]] = {}
        with timed(seconds, "generate"):
            for group in self._rollout.generate(prompts, sampling):
                if self._reference is not None and self._config.algorithm.dynamic_sampling_rounds == 1:
                    self._reference.submit(group)
                finished[group.prompt.id] = (group, self._rewards.submit(group))
        with timed(seconds, "reward"):
            # In the order of the prompts, so that the batch does not depend on which group finished first.
            return [(group, self._result(future)) for group, future in (finished[prompt.id] for prompt in prompts)]

    def _batch(self, groups: list[Group], seconds: dict[str, float]) -> TrainBatch:
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


def train_stream(step: int) -> str:
    """The seed stream of a step: the number of steps that come before, in the order of the data."""
    return f"train/{step - 1}"


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the block's wall time to the phase's."""
    start = time.monotonic()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - start
