"""Distributes prompts over the generation engines and returns groups as they finish."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle

from openr1.errors import EngineError, StageTimeout
from openr1.runtime.interrupts import INTERRUPTS, POLL_SECONDS
from openr1.runtime.ray_calls import gather
from openr1.types import Group, Prompt, SamplingParams


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
        # Round-robin, so that the shares of the engines differ by at most one prompt.
        count = len(self._engines)
        shares = [list(prompts[index::count]) for index in range(count)]
        streams = [
            engine.generate.remote(share, sampling)
            for engine, share in zip(self._engines, shares, strict=True)
            if share
        ]
        waiting = {prompt.id for prompt in prompts}
        self._progress.last = time.monotonic()
        while streams:
            # A short wait, so that Ctrl-C is noticed; the real deadline is the check of `_progress` below.
            INTERRUPTS.check()
            ready, _ = ray.wait(streams, timeout=POLL_SECONDS)
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
                    streams.remove(stream)
                    continue
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
