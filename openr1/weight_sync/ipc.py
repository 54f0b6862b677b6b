"""Weight transfer within a GPU's memory by CUDA IPC, for engines on the GPUs of policy ranks: vLLM's own on both ends.

It has never run here. All policy ranks exchange handles in the middle of a push, so after an error of an engine rank 0
must go on until the others are through, too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCTrainerWeightTransferEngine

BACKEND = "openr1_ipc"
"""Of the sending end; the receiving end is vLLM's "ipc"."""
BUFFER_BYTES = 2**28
"""Size of a piece, in the memory of each GPU."""


@dataclass
class IpcTrainerInitInfo(IPCTrainerInitInfo):
    """What the sending end needs."""

    backend: ClassVar[str] = BACKEND

    packed: bool = True


class Postponed:
    """A client that keeps the first error of a push, and sends nothing after it."""

    def __init__(self, client: VLLMWeightSyncClient) -> None:
        self._client = client
        self._error: Exception | None = None

    def start_weight_update(self) -> None:
        """Begin a push."""
        self._attempt(self._client.start_weight_update)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load a piece."""
        self._attempt(lambda: self._client.update_weights(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End a push."""
        self._attempt(lambda: self._client.finish_weight_update(weight_version))

    def raise_error(self) -> None:
        """Raise the push's first error, if there is one."""
        if self._error is not None:
            raise self._error

    def _attempt(self, call: Callable[[], None]) -> None:
        if self._error is None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 (raised by `raise_error`)
                self._error = error


class IpcTrainerEngine(IPCTrainerWeightTransferEngine):
    """The sending end on every policy rank."""

    init_info_cls = IpcTrainerInitInfo

    client: VLLMWeightSyncClient

    def send_weights(self) -> None:
        """Push. An error of an engine is raised once no other rank waits for this one any more."""
        client, postponed = self.client, Postponed(self.client)
        self.client = postponed
        try:
            super().send_weights()
        finally:
            self.client = client
        postponed.raise_error()


def buffer_bytes(source: WeightSource) -> int:
    """Size of a piece: vLLM refuses a tensor that does not fit into one."""
    largest: int = max(math.prod(one.shape) * one.dtype.itemsize for one in source.metadata())
    return max(largest, BUFFER_BYTES)


def register() -> None:
    """Register the sending end with vLLM's factory in this process. Idempotent."""
    if BACKEND not in WeightTransferTrainerFactory._registry:
        WeightTransferTrainerFactory.register_engine(BACKEND, IpcTrainerEngine)
