"""Client of the engines during a weight push: vLLM's four-method protocol over Ray, with a deadline."""

from typing import Any

from ray.actor import ActorHandle

from openr1.errors import WeightSyncError
from openr1.runtime.ray_calls import gather
from openr1.types import WeightVersion


class EngineClient:
    """Fans each call out to every engine and waits for all of them."""

    def __init__(self, engines: list[ActorHandle], timeout_seconds: float) -> None:
        """`timeout_seconds` bounds each of the four calls."""
        self._engines = engines
        self._timeout_seconds = timeout_seconds
        self.version: WeightVersion = 0
        """The version that the next push brings; set it before `send_weights`."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Set up the receiving ends."""
        self._wait(
            [engine.init_weight_transfer.remote(init_info) for engine in self._engines], "to set up weight transfer"
        )

    def start_weight_update(self) -> None:
        """Stop the engines between two steps; what is in flight stays."""
        self._wait([engine.start_weight_update.remote() for engine in self._engines], "to begin a weight update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Have the engines load the weights."""
        self._wait([engine.update_weights.remote(update_info) for engine in self._engines], "to load weights")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Put the weights into service.

        Raises:
            WeightSyncError: An engine answers another version than the one pushed.
        """
        calls = [engine.finish_weight_update.remote(self.version) for engine in self._engines]
        held = self._wait(calls, "to put weights into service")
        if set(held) != {self.version}:
            raise WeightSyncError(f"pushed weight version {self.version}, but the engines hold {held}")

    def _wait(self, calls: list[Any], purpose: str) -> list[Any]:
        return gather(calls, self._timeout_seconds, f"policy rank 0 waits for {len(calls)} engine(s) {purpose}")
