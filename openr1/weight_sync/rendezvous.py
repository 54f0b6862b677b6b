"""The sending end of transfers that need a group of policy rank 0 and all engines: how the group is formed.

vLLM's own sender takes the number of a port that is free, which another process may take before it is used. Here rank 0
listens on a port that the system chooses, on the address of its own node, before the engines hear of it.
"""

import socket
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient, WeightSource
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, worker_init_payload
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

from openr1.runtime.network import own_address

SYSTEM_CHOOSES = 0
"""Number that stands for any free port."""


@dataclass
class GroupTrainerInitInfo(NCCLTrainerInitInfo):
    """What the sending end needs; `timeout_seconds` is the deadline of each wait for the others."""

    backend: ClassVar[str] = "of a subclass"

    master_address: str = field(default_factory=own_address)
    master_port: int = SYSTEM_CHOOSES
    world_size: int = field(kw_only=True)
    timeout_seconds: float = field(kw_only=True)


class GroupTrainerEngine(NCCLTrainerWeightTransferEngine):
    """vLLM's sending end with its own way to form the group; a transfer says what the group is."""

    @classmethod
    @abstractmethod
    def join(cls, init_info: Any, listening: socket.socket) -> Any:
        """Join as rank 0, at the socket on which the others are awaited."""

    @classmethod
    @abstractmethod
    def worker_init_info(cls, init_info: Any, common: dict[str, Any]) -> NCCLWeightTransferInitInfo:
        """What the engines get, from what all transfers with a group send."""

    @classmethod
    def trainer_init(cls, init_info: Any, *, client: VLLMWeightSyncClient, source: WeightSource | None = None) -> Self:
        """Build the sending end; rank 0 also forms the group with all engines."""
        engine = cls(
            client=client,
            source=source,
            is_sender=init_info.is_sender,
            packed=init_info.packed,
            packed_buffer_size_bytes=init_info.packed_buffer_size_bytes,
            packed_num_buffers=init_info.packed_num_buffers,
        )
        if engine.is_sender:
            engine._form_group(init_info)
        return engine

    def _form_group(self, init_info: Any) -> None:
        listening = socket.create_server((init_info.master_address, init_info.master_port))
        common = {
            "master_address": init_info.master_address,
            "master_port": listening.getsockname()[1],
            # The first engine's; the client adds to it for those that follow.
            "rank_offset": 1,
            "world_size": init_info.world_size,
            "packed": init_info.packed,
            "packed_buffer_size_bytes": init_info.packed_buffer_size_bytes,
            "packed_num_buffers": init_info.packed_num_buffers,
        }
        payload = worker_init_payload(self.worker_init_info(init_info, common))
        thread = ThreadPoolExecutor(max_workers=1)
        try:
            joining = thread.submit(self.join, init_info, listening)
            # An engine that has died is noticed here at once. The thread would wait for it until its deadline.
            self.client.init_weight_transfer_engine(payload)
            self.model_update_group = joining.result(init_info.timeout_seconds)
        finally:
            thread.shutdown(wait=False)
