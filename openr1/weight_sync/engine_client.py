"""Client of the engines during a weight push: vLLM's four-method protocol over Ray, with deadlines."""

from typing import Any

from ray.actor import ActorHandle

from openr1.errors import WeightSyncError
from openr1.runtime.ray_calls import gather
from openr1.types import WeightVersion


class EngineClient:
    """Sends each call to every engine and waits for all of them."""

    def __init__(self, engines: list[ActorHandle], timeout_seconds: float) -> None:
        """`timeout_seconds` is the deadline of each of the four calls."""
        self._engines = engines
        self._timeout_seconds = timeout_seconds
        self.version: WeightVersion = 0
        """Version of the weights in the next push; set it before `send_weights`."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Set up the receiving end on every engine."""
        self._wait(
            [engine.init_weight_transfer.remote(init_info) for engine in self._engines], "to set up weight transfer"
        )

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

    def _wait(self, calls: list[Any], purpose: str) -> list[Any]:
        return gather(calls, self._timeout_seconds, f"policy rank 0 waits for {len(calls)} engine(s) {purpose}")
