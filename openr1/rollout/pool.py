"""Distributes prompts over the generation engines and returns groups as they finish."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle

from openr1.errors import EngineError, StageTimeout
from openr1.runtime.interrupts import INTERRUPTS, POLL_SECONDS
from openr1.runtime.ray_calls import gather
from openr1.types import Group, Prompt, SamplingParams

RESERVE_FRACTION = 0.25
"""Part of a request's prompts that is dealt out only as groups finish, if there are several engines."""


def deal(prompts: Sequence[Prompt], num_engines: int) -> tuple[list[list[Prompt]], deque[Prompt]]:
    """Distribute prompts over engines: a share for each at once, and a reserve for those that finish first.

    How long a response gets is not known beforehand, and the slowest engine ends the step. Long prompts go first, since
    what starts last should be short; shares differ by at most one prompt. One engine gets everything at once.
    """
    if num_engines == 1:
        return [list(prompts)], deque()
    longest_first = sorted(prompts, key=lambda prompt: -len(prompt.token_ids))
    # Each engine gets at least one prompt if there are enough.
    at_once = max(len(prompts) - int(RESERVE_FRACTION * len(prompts)), min(num_engines, len(prompts)))
    shares = [longest_first[index:at_once:num_engines] for index in range(num_engines)]
    return shares, deque(longest_first[at_once:])


@dataclass
class Progress:
    """Time at which the engines last finished a group or received a request (`time.monotonic`)."""

    last: float


class RolloutPool:
    """The generation engines of a run.

    Thread-safe: concurrent calls of `generate` (training and evaluation) are served first come, first served.
    """

    def __init__(self, engines: list[ActorHandle], timeout_seconds: float) -> None:
        """`timeout_seconds`: longest time during which no caller receives a finished group."""
        self._engines = engines
        self._timeout_seconds = timeout_seconds
        # Shared by all callers: one that waits in the queue behind another caller's groups must not time out.
        self._progress = Progress(time.monotonic())

    def per_engine(self) -> "list[RolloutPool]":
        """One single-engine pool per engine."""
        pools = [RolloutPool([engine], self._timeout_seconds) for engine in self._engines]
        # They queue behind requests of this pool, so they wait as long as this pool makes progress.
        for pool in pools:
            pool._progress = self._progress
        return pools

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[Group]:
        """Sample every prompt. Yields the groups in the order in which they finish, each exactly once.

        Raises:
            StageTimeout: No group finished for `timeout_seconds`.
            EngineError: An engine returned a prompt that was not requested, or the wrong number of responses.
            TrainingError: An engine died.
        """
        shares, reserve = deal(prompts, len(self._engines))
        unfinished = [len(share) for share in shares]
        streams = {
            engine.generate.remote(share, sampling): index
            for index, (engine, share) in enumerate(zip(self._engines, shares, strict=True))
            if share
        }
        waiting = {prompt.id for prompt in prompts}
        self._progress.last = time.monotonic()
        while streams:
            # A short wait, so that Ctrl-C is noticed; the real deadline is the check of `_progress` below.
            INTERRUPTS.check()
            ready, _ = ray.wait(list(streams), timeout=POLL_SECONDS)
            if ready:
                self._progress.last = time.monotonic()
            elif time.monotonic() - self._progress.last > self._timeout_seconds:
                raise StageTimeout(
                    f"the trainer waits for {len(waiting)} of {len(prompts)} groups from {len(streams)} engine(s): "
                    f"none finished within {self._timeout_seconds:g} s (rollout.timeout_seconds)"
                )
            for stream in ready:
                try:
                    reference = next(stream)
                except StopIteration:
                    del streams[stream]
                    continue
                unfinished[streams[stream]] -= 1
                if reserve:
                    least = unfinished.index(min(unfinished))
                    unfinished[least] += 1
                    streams[self._engines[least].generate.remote([reserve.popleft()], sampling)] = least
                yield self._checked(reference, waiting, sampling)
        # A stream that ends early raises nothing, and the batch would silently be smaller.
        if waiting:
            raise EngineError(
                f"the engines finished without groups for {len(waiting)} prompts, such as {sorted(waiting)[0]}; "
                "see logs/engine_*.log"
            )

    def _checked(self, reference: ray.ObjectRef, waiting: set[str], sampling: SamplingParams) -> Group:
        """Fetch a group, and check that it was requested, is not a duplicate and has all its responses."""
        group: Group = gather([reference], self._timeout_seconds, "the trainer waits for an engine's group")[0]
        if group.prompt.id not in waiting:
            raise EngineError(
                f"an engine returned a group for prompt {group.prompt.id}, which was not requested or is a duplicate"
            )
        if len(group.responses) != sampling.n_samples_per_prompt:
            raise EngineError(
                f"prompt {group.prompt.id}: {len(group.responses)} responses instead of {sampling.n_samples_per_prompt}"
            )
        waiting.remove(group.prompt.id)
        return group
