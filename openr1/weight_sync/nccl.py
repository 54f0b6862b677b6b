"""Weight transfer from GPU to GPU over NCCL: vLLM's own on both ends, except for the port (`rendezvous`).

It has never run here. NCCL has no deadline of its own: a broadcast to an engine that has died ends with the deadline of
the trainer's wait for the push.
"""

import socket
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo
from vllm.utils.nccl import unpinned_nccl_env

from openr1.weight_sync.rendezvous import GroupTrainerEngine, GroupTrainerInitInfo

BACKEND = "openr1_nccl"
"""Of the sending end; the receiving end is vLLM's "nccl"."""


@dataclass
class NcclTrainerInitInfo(GroupTrainerInitInfo):
    """What the sending end needs."""

    backend: ClassVar[str] = BACKEND


class NcclTrainerEngine(GroupTrainerEngine):
    """The sending end on every policy rank."""

    init_info_cls = NcclTrainerInitInfo

    @classmethod
    def join(cls, init_info: NcclTrainerInitInfo, listening: socket.socket) -> PyNcclCommunicator:
        """Join as rank 0, as vLLM's `stateless_init_process_group` does."""
        address, port = listening.getsockname()
        seconds = int(init_info.timeout_seconds)
        group = StatelessProcessGroup.create(
            address, port, 0, init_info.world_size, store_timeout=seconds, listen_socket=listening
        )
        with unpinned_nccl_env():
            return PyNcclCommunicator(group, device=torch.accelerator.current_device_index())

    @classmethod
    def worker_init_info(cls, init_info: NcclTrainerInitInfo, common: dict[str, Any]) -> NCCLWeightTransferInitInfo:
        """What the engines get."""
        return NCCLWeightTransferInitInfo(**common)


def register() -> None:
    """Register the sending end with vLLM's factory in this process. Idempotent."""
    if BACKEND not in WeightTransferTrainerFactory._registry:
        WeightTransferTrainerFactory.register_engine(BACKEND, NcclTrainerEngine)
