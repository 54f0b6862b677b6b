"""Prompts spread over the engines, groups returned as they finish."""

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
    """When the engines last finished a group, or were asked for some; on the monotonic clock."""

    last: float


class RolloutPool:
    """Generation engines of a run. Several threads may ask at a time: engines work first come, first served."""

    def __init__(self, engines: list[ActorHandle], timeout_seconds: float) -> None:
        """`timeout_seconds`: longest time during which no caller receives a finished group."""
        self._engines = engines
        self._timeout_seconds = timeout_seconds
        self._progress = Progress(time.monotonic())

    def per_engine(self) -> "list[RolloutPool]":
        """One single-engine pool per engine."""
        pools = [RolloutPool([engine], self._timeout_seconds) for engine in self._engines]
        for pool in pools:
            pool._progress = self._progress
        return pools

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[Group]:
        """Sample every prompt; yields each group once, in the order in which they finish.

        Raises:
            StageTimeout: No group finished for `timeout_seconds`.
            EngineError: An engine answered a prompt that it was not asked, or too few or too many responses.
            TrainingError: An engine died.
        """
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
        if waiting:
            raise EngineError(
                f"the engines ended without answering {len(waiting)} prompts, {sorted(waiting)[0]} among them"
            )

    def _checked(self, reference: ray.ObjectRef, waiting: set[str], sampling: SamplingParams) -> Group:
        """Fetch a group and check that it was asked for, once, with all its responses."""
        group: Group = gather([reference], self._timeout_seconds, "the trainer waits for an engine's group")[0]
        if group.prompt.id not in waiting:
            raise EngineError(
                f"an engine answered prompt {group.prompt.id}, which it was not asked or has answered before"
            )
        if len(group.responses) != sampling.n_samples_per_prompt:
            raise EngineError(
                f"prompt {group.prompt.id}: {len(group.responses)} responses instead of {sampling.n_samples_per_prompt}"
            )
        waiting.remove(group.prompt.id)
        return group
