"""The phases of a weight update on an engine, and how it is given up in any of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from openr1.errors import ActorLost, WeightSyncError
from openr1.rollout.pausing import drain, fall_asleep, wake_cache, wake_weights
from openr1.runtime.faults import FAULTS
from openr1.types import WeightVersion

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput


class WeightUpdates:
    """Holds an engine's lock from the start of an update to its end, and in sleep.

    Calls may come at any time, and are served one after the other. An engine steps only while it holds all the weights
    of one version: after an update that was given up it generates on with the old weights if none were loaded yet,
    and otherwise rests until the next update; its requests wait.
    """

    def __init__(
        self,
        llm: "LLM",
        between_steps: asyncio.Lock,
        call: Callable[..., Awaitable[Any]],
        hand_out: "Callable[[list[RequestOutput]], None]",
        restarted: bool,
    ) -> None:
        """Set up, with the engine stepping.

        Args:
            llm: The engine.
            between_steps: Held by whoever steps the engine, and by this object while it must not step.
            call: Runs a function on the engine's thread.
            hand_out: Takes the requests that end while the engine comes to rest.
            restarted: Whether this process replaces one that died: its weights are not those that were pushed.
        """
        self._llm = llm
        self._between_steps = between_steps
        self._call = call
        self._hand_out = hand_out
        self._one_at_a_time = asyncio.Lock()
        self._resting = False
        self._weights_asleep = self._cache_asleep = False
        # All weights are of one version; an update was started and neither finished nor given up.
        self._is_whole, self._is_open = True, False
        self._awaits_push = restarted

    def check_pushed(self) -> None:
        """Refuse to generate with the weights that a restarted engine was started with.

        Raises:
            ActorLost: No weights were pushed since the restart.
        """
        if self._awaits_push:
            raise ActorLost(
                "the engine was started again after its process had died, and has not got the policy's weights yet: "
                "connect the policy to it and push them"
            )

    async def connect(self, init_info: dict[str, Any]) -> None:
        """Set up the receiving end of the transfer."""
        async with self._one_at_a_time:
            await self._on_workers("init_weight_transfer_engine", init_info)

    async def sleep(self) -> None:
        """Release the GPU memory of weights and KV cache until the next update."""
        async with self._one_at_a_time:
            await self._rest()
            self._is_whole = False
            await self._call(fall_asleep, self._llm)
            self._weights_asleep = self._cache_asleep = True

    async def start(self) -> None:
        """Bring the engine to rest and prepare it for loading."""
        async with self._one_at_a_time:
            await self._rest()
            if self._weights_asleep:
                await self._call(wake_weights, self._llm)
                self._weights_asleep = False
            self._is_open = True
            await self._on_workers("start_weight_update")

    async def load(self, update_info: dict[str, Any]) -> None:
        """Load weights."""
        async with self._one_at_a_time:
            self._is_whole = False
            FAULTS.at("load")
            await self._on_workers("update_weights", update_info)

    async def finish(self, version: WeightVersion) -> WeightVersion:
        """Put the weights into service; the engine steps on. Answers the version that it now holds."""
        async with self._one_at_a_time:
            FAULTS.at("finish")
            await self._on_workers("complete_weight_update")
            await self._call(self._llm.update_weight_version, str(version))
            if self._cache_asleep:
                # Only now, so that the cache and what loading takes beside the weights need no room at one time.
                await self._call(wake_cache, self._llm)
                self._cache_asleep = False
            await self._call(self._llm.llm_engine.reset_prefix_cache, True)
            held = int(await self._call(self._llm.get_weight_version))
            self._is_whole, self._is_open, self._awaits_push = True, False, False
            self._step_on()
            return held

    async def abort(self) -> bool:
        """Give up the update, in whatever phase it is; none is fine, too.

        Waits until the phase in progress ends, so the sender must have let go of the engine.

        Returns:
            Whether the engine steps on. False: its weights are incomplete, and it rests until the next update.
        """
        async with self._one_at_a_time:
            if self._is_open:
                await self._on_workers("abort_weight_update")
                self._is_open = False
            # Leaves the group, which cannot be used after an error.
            await self._on_workers("shutdown_weight_transfer_engine")
            if self._is_whole:
                self._step_on()
            return not self._resting

    async def _rest(self) -> None:
        """Wait for the end of a step, and finish what is in flight; no other step until `_step_on`."""
        if not self._resting:
            await self._between_steps.acquire()
            self._resting = True
            self._hand_out(await self._call(drain, self._llm))

    def _step_on(self) -> None:
        if self._resting:
            self._resting = False
            self._between_steps.release()

    async def _on_workers(self, method: str, *arguments: Any) -> None:
        """Call a method of `weight_sync.vllm_extension` or vLLM on every worker process of the engine.

        Raises:
            WeightSyncError: It failed on a worker.
        """
        errors = await self._call(self._llm.collective_rpc, "attempt", None, (method, *arguments))
        failed = [f"worker {rank}: {error}" for rank, error in enumerate(errors) if error is not None]
        if failed:
            raise WeightSyncError(f"{method}: {'; '.join(failed)}")
