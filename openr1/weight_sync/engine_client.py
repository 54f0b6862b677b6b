"""Client of the engines during a weight push: vLLM's four-method protocol over Ray, with deadlines."""

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError

from openr1.errors import StageTimeout, TrainingError, WeightSyncError
from openr1.runtime.console import say
from openr1.runtime.ray_calls import gather, last_line, numbered, one_line
from openr1.types import WeightVersion

ANSWER_SECONDS = 1.0
"""How long an answer may be on its way that an engine gave before another."""
RETRY_SECONDS = 1.0
"""Pause between two questions to an engine that Ray is starting again."""


class EngineClient:
    """Sends each call to every engine and waits for all of them, until a deadline that all calls share."""

    def __init__(self, engines: Sequence[ActorHandle], timeout_seconds: float) -> None:
        """The first deadline is `timeout_seconds` from now; see `set_deadline`."""
        self._engines = list(engines)
        self._names = numbered("engine", len(self._engines))
        self._waiting = ""
        self._calls: list[Any] = []
        self._silent: set[str] = set()
        """Names of the engines that did not answer the last `abort`."""
        self.version: WeightVersion = 0
        """Version of the weights in the next push; set it before `send_weights`."""
        self.set_deadline(timeout_seconds)

    def set_deadline(self, timeout_seconds: float) -> None:
        """From now on, calls end `timeout_seconds` from now."""
        self._timeout_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds

    def tensor_parallel_sizes(self) -> list[int]:
        """Worker processes of each engine."""
        return self._wait([engine.tensor_parallel_size.remote() for engine in self._engines], "to tell their sizes")

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Set up the receiving end on every engine. In a group, each gets its first rank (`rank_offset`)."""
        infos = [dict(init_info) for _ in self._engines]
        if "rank_offset" in init_info:
            offset = init_info["rank_offset"]
            for info, size in zip(infos, self.tensor_parallel_sizes(), strict=True):
                info["rank_offset"] = offset
                offset += size
        engines = zip(self._engines, infos, strict=True)
        self._wait([engine.init_weight_transfer.remote(info) for engine, info in engines], "to set up weight transfer")

    def start_weight_update(self) -> None:
        """Pause every engine between two of its steps. Requests in flight are kept."""
        self._wait([engine.start_weight_update.remote() for engine in self._engines], "to begin a weight update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load the weights on every engine."""
        self._wait([engine.update_weights.remote(update_info) for engine in self._engines], "to load weights")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Put the weights into service and resume every engine.

        `weight_version` belongs to vLLM's protocol and is ignored: `self.version` is what was pushed.

        Raises:
            WeightSyncError: An engine reports a version other than the pushed one.
        """
        calls = [engine.finish_weight_update.remote(self.version) for engine in self._engines]
        reported = self._wait(calls, "to put weights into service")
        if set(reported) != {self.version}:
            raise WeightSyncError(
                f"pushed weight version {self.version}, but the engines report {reported}; see logs/engine_*.log"
            )

    def abort(self) -> None:
        """Have every engine give up an update; one that is lost or does not answer is found by `wait_until_ready`."""
        calls = {engine.abort_weight_update.remote(): name for name, engine in self._by_name().items()}
        unanswered = ray.wait(list(calls), num_returns=len(calls), timeout=self._seconds_left())[1]
        self._silent = {calls[call] for call in unanswered}

    def what_failed(self, error: Exception) -> str:
        """What each engine that failed says, for an error in a push; after `abort`.

        Whoever was in a group with one that failed only knows that a connection was lost.
        """
        causes = []
        for name, call in zip(self._names, self._calls, strict=bool(self._calls)):
            try:
                ray.get(call, timeout=ANSWER_SECONDS)
            except GetTimeoutError:
                causes.append(f"{name}: not done within {self._timeout_seconds:g} s")
            except RayTaskError as failure:
                causes.append(f"{name}: {type(failure.cause).__name__}: {one_line(failure.cause)}")
            except RayActorError as failure:
                causes.append(f"{name}: {last_line(failure)}")
        return f"{self._waiting}: {'; '.join(causes)}" if causes else last_line(error)

    def wait_until_ready(self) -> None:
        """Wait until every engine answers that it has no update open; Ray may still be starting some again.

        The process of an engine that did not answer `abort` is ended first: it is stopped, or stuck in a call.

        Raises:
            StageTimeout: An engine did not answer before the deadline.
            TrainingError: An engine has died for good, or cannot give up its update.
        """
        self._calls = []
        engines = self._by_name()
        for name in sorted(self._silent):
            say(f"{name} does not answer; its process is ended")
            ray.kill(engines[name], no_restart=False)
        self._silent = set()
        while engines:
            calls = {name: engine.abort_weight_update.remote() for name, engine in engines.items()}
            ray.wait(list(calls.values()), num_returns=len(calls), timeout=self._seconds_left())
            for name, call in calls.items():
                if self._answers(name, call):
                    del engines[name]
            if engines:
                time.sleep(min(RETRY_SECONDS, self._seconds_left()))

    def _answers(self, name: str, call: ray.ObjectRef) -> bool:
        """Whether an engine has answered; False if Ray is starting it again."""
        waiting = f"policy rank 0 waits for {len(self._engines)} engine(s) to be ready again: {name}"
        try:
            ray.get(call, timeout=0)
        except GetTimeoutError as error:
            raise StageTimeout(f"{waiting}: not done within {self._timeout_seconds:g} s") from error
        except ActorUnavailableError as error:
            if self._seconds_left() <= 0:
                raise StageTimeout(f"{waiting}: not done within {self._timeout_seconds:g} s") from error
            return False
        except (RayActorError, RayTaskError) as error:
            raise TrainingError(f"{waiting}: {last_line(error)}") from error
        return True

    def _by_name(self) -> dict[str, ActorHandle]:
        return dict(zip(self._names, self._engines, strict=True))

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _wait(self, calls: list[Any], purpose: str) -> list[Any]:
        self._waiting = f"policy rank 0 waits for {len(calls)} engine(s) {purpose}"
        self._calls = calls
        return gather(calls, round(self._seconds_left(), 1), self._waiting, self._names)
