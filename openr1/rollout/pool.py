"""Distributes prompts over the generation engines and returns groups as they finish."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from openr1.errors import ActorLost, EngineError, StageTimeout
from openr1.runtime.console import say
from openr1.runtime.heartbeats import SILENT_SECONDS, Heartbeats
from openr1.runtime.interrupts import INTERRUPTS, POLL_SECONDS
from openr1.runtime.ray_calls import describe_death, gather
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


class Requests:
    """What one call of `generate` asked of the engines, and what they still owe."""

    def __init__(self, engines: Sequence[ActorHandle], sampling: SamplingParams) -> None:
        """Nothing is asked yet."""
        self._engines = engines
        self._sampling = sampling
        self.unfinished: list[dict[str, Prompt]] = [{} for _ in engines]
        """Prompts of each engine without a group, by their id."""
        self.streams: dict[Any, int] = {}
        """Engine of each open stream of groups."""

    def send(self, engine: int, prompts: Sequence[Prompt]) -> None:
        """Ask an engine for groups."""
        if prompts:
            self.unfinished[engine] |= {prompt.id: prompt for prompt in prompts}
            self.streams[self._engines[engine].generate.remote(list(prompts), self._sampling)] = engine

    def least_loaded(self) -> int:
        """The engine that owes the fewest groups."""
        return min(range(len(self._engines)), key=lambda engine: len(self.unfinished[engine]))

    def take(self, stream: Any, timeout_seconds: float) -> Group | None:
        """The next group of a stream that has something; None at its end.

        Raises:
            ActorLost: The engine is gone.
            EngineError: The group was not requested, is a duplicate, or has the wrong number of responses.
        """
        engine = self.streams[stream]
        try:
            reference = next(stream)
        except StopIteration:
            del self.streams[stream]
            return None
        except RayActorError as error:
            raise ActorLost(describe_death(error)) from error
        group: Group = gather([reference], timeout_seconds, "the trainer waits for an engine's group")[0]
        if self.unfinished[engine].pop(group.prompt.id, None) is None:
            raise EngineError(
                f"an engine returned a group for prompt {group.prompt.id}, which was not requested or is a duplicate"
            )
        if len(group.responses) != self._sampling.n_samples_per_prompt:
            raise EngineError(
                f"prompt {group.prompt.id}: {len(group.responses)} responses instead of "
                f"{self._sampling.n_samples_per_prompt}"
            )
        return group

    def send_again(self, engine: int) -> None:
        """Ask an engine that started again for all that it owes; its old streams are gone."""
        self.streams = {stream: other for stream, other in self.streams.items() if other != engine}
        self.send(engine, list(self.unfinished[engine].values()))


class RolloutPool:
    """The generation engines of a run.

    Thread-safe: concurrent calls of `generate` (training and evaluation) are served first come, first served.
    """

    def __init__(
        self, engines: list[ActorHandle], timeout_seconds: float, recover: Callable[[], None] | None = None
    ) -> None:
        """Take engines that have started.

        Args:
            engines: One actor each.
            timeout_seconds: Longest time during which no caller receives a finished group.
            recover: Called after the loss of an engine: returns once all engines serve the newest weights again, or
                raises. None: the loss of an engine is an error.
        """
        self._engines = engines
        self._timeout_seconds = timeout_seconds
        self._recover = recover
        # Shared by all callers: one that waits in the queue behind another caller's groups must not time out.
        self._progress = Progress(time.monotonic())

    def per_engine(self) -> "list[RolloutPool]":
        """One single-engine pool per engine."""
        pools = [RolloutPool([engine], self._timeout_seconds, self._recover) for engine in self._engines]
        # They queue behind requests of this pool, so they wait as long as this pool makes progress.
        for pool in pools:
            pool._progress = self._progress
        return pools

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[Group]:
        """Sample every prompt. Yields the groups in the order in which they finish, each exactly once.

        Groups that an engine owed when it was lost are sampled again, under the weights that it has then.

        Raises:
            StageTimeout: No group finished for `timeout_seconds`.
            EngineError: An engine returned a prompt that was not requested, or the wrong number of responses.
            TrainingError: An engine was lost and did not come back.
        """
        shares, reserve = deal(prompts, len(self._engines))
        requests, heartbeats = Requests(self._engines, sampling), Heartbeats(self._engines)
        for engine, share in enumerate(shares):
            requests.send(engine, share)
        self._progress.last = time.monotonic()
        while requests.streams:
            self._give_up(heartbeats.watch(set(requests.streams.values())))
            stream = self._ready(requests, len(prompts))
            if stream is None:
                continue
            try:
                group = requests.take(stream, self._timeout_seconds)
            except ActorLost as error:
                self._await_engines(error)
                requests.send_again(requests.streams[stream])
                continue
            if group is None:
                continue
            if reserve:
                requests.send(requests.least_loaded(), [reserve.popleft()])
            yield group
        # A stream that ends early raises nothing, and the batch would silently be smaller.
        if missing := sorted(set().union(*requests.unfinished)):
            raise EngineError(
                f"the engines finished without groups for {len(missing)} prompts, such as {missing[0]}; "
                "see logs/engine_*.log"
            )

    def _ready(self, requests: Requests, num_prompts: int) -> Any | None:
        """A stream that has a group, has ended or has failed; None after a short wait."""
        # A short wait, so that Ctrl-C is noticed; the real deadline is the check of `_progress` below.
        INTERRUPTS.check()
        # One at a time: after the loss of an engine its other streams are gone.
        ready, _ = ray.wait(list(requests.streams), num_returns=1, timeout=POLL_SECONDS)
        if ready:
            self._progress.last = time.monotonic()
            return ready[0]
        if time.monotonic() - self._progress.last > self._timeout_seconds:
            lagging = [f"engine {engine}" for engine in sorted(set(requests.streams.values()))]
            raise StageTimeout(
                f"the trainer waits for {sum(map(len, requests.unfinished))} of {num_prompts} groups from "
                f"{', '.join(lagging)}: none finished within {self._timeout_seconds:g} s (rollout.timeout_seconds)"
            )
        return None

    def _give_up(self, silent: Sequence[int]) -> None:
        """End the processes of these engines; their streams then fail as if they had died."""
        for engine in silent:
            say(
                f"engine {engine} has answered nothing for {SILENT_SECONDS:g} s (stopped, or stuck in a call); its "
                "process is ended"
            )
            ray.kill(self._engines[engine], no_restart=False)

    def _await_engines(self, error: ActorLost) -> None:
        """Wait until all engines serve again after the loss of one."""
        if self._recover is None:
            raise error
        say(f"an engine was lost while it generated ({error}); waiting until Ray has started it again")
        self._recover()
        self._progress.last = time.monotonic()
        say("the engines have the newest weights and generate on")
