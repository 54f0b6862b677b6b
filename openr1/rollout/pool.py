"""Prompts spread over the engines, groups returned as they finish."""

import time
from collections.abc import Iterator, Sequence

import ray
from ray.actor import ActorHandle

from openr1.errors import EngineError, StageTimeout
from openr1.interrupt import INTERRUPTS
from openr1.ray_calls import POLL_SECONDS, gather
from openr1.records import Group, Prompt
from openr1.rollout.sampling import Sampling


class RolloutPool:
    """All generation engines of a run."""

    def __init__(self, engines: list[ActorHandle], timeout_seconds: float) -> None:
        """`timeout_seconds` bounds the wait for the next finished group."""
        self._engines = engines
        self._timeout_seconds = timeout_seconds

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Group]:
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
        last_progress = time.monotonic()
        while streams:
            INTERRUPTS.check()
            ready, _ = ray.wait(streams, timeout=POLL_SECONDS)
            if ready:
                last_progress = time.monotonic()
            elif time.monotonic() - last_progress > self._timeout_seconds:
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

    def _checked(self, reference: ray.ObjectRef, waiting: set[str], sampling: Sampling) -> Group:
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
