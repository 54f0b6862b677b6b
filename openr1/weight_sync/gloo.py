"""Weight transfer over TCP with gloo: for engines on other machines than the policy, or without GPUs.

vLLM's transfer over NCCL, with its packing of tensors into buffers, its checks and its order of calls; only the group
is another. It broadcasts from host memory: on GPUs a buffer is copied there first, and from there after it.
"""

import socket
from dataclasses import dataclass, field
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer import packed_tensor
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine, NCCLWeightTransferUpdateInfo

from openr1.weight_sync.backends import VLLM_NAMES
from openr1.weight_sync.reload import put_into_service
from openr1.weight_sync.rendezvous import GroupTrainerEngine, GroupTrainerInitInfo

BACKEND = VLLM_NAMES["gloo"]
BUFFER_BYTES = 2**26
"""Size of a broadcast; a larger tensor is one by itself. Each end holds a few in host memory."""


@dataclass(kw_only=True)
class GlooInitInfo(NCCLWeightTransferInitInfo):
    """Where an engine joins the group, and how long it waits there and in each broadcast."""

    timeout_seconds: float


@dataclass
class GlooTrainerInitInfo(GroupTrainerInitInfo):
    """What the sending end needs."""

    backend: ClassVar[str] = BACKEND

    packed_buffer_size_bytes: int = field(default_factory=lambda: BUFFER_BYTES, kw_only=True)


class HostGroup:
    """A gloo group with the one operation that the packed transfer uses."""

    def __init__(
        self,
        address: str,
        port: int,
        rank: int,
        size: int,
        timeout_seconds: float,
        listening: socket.socket | None = None,
    ) -> None:
        """Join, with `listening` at rank 0. Blocks until all have joined, for `timeout_seconds` at most."""
        self._rank = rank
        limit = timedelta(seconds=timeout_seconds)
        self._group: dist.ProcessGroup | None = stateless_init_torch_distributed_process_group(
            address, port, rank, size, "gloo", listen_socket=listening, timeout=limit
        )

    def broadcast(self, tensor: torch.Tensor, src: int, stream: object = None) -> None:
        """Send a tensor from `src` to all others, which write it into theirs; `stream` is for GPUs and ignored."""
        assert self._group is not None
        options = dist.BroadcastOptions()
        options.rootRank = src
        sends = src == self._rank
        host = tensor
        if tensor.device.type != "cpu":
            host = tensor.cpu() if sends else torch.empty_like(tensor, device="cpu")
        self._group.broadcast([host], options).wait()
        if host is not tensor and not sends:
            tensor.copy_(host)

    def destroy(self) -> None:
        """Close the connections: whoever waits for this process in a broadcast gets an error at once.

        They are closed with the last reference to torch's group. The traceback of an error in a broadcast refers to
        this object only.
        """
        group, self._group = self._group, None
        if group is not None:
            group.abort()


class GlooWeightTransferEngine(NCCLWeightTransferEngine):
    """The receiving end, inside a vLLM worker."""

    init_info_cls = GlooInitInfo

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Join the group of rank 0 and all engines; leaves the one before."""
        self.shutdown()
        self.packed = init_info.packed
        self.packed_buffer_size_bytes = init_info.packed_buffer_size_bytes
        self.packed_num_buffers = init_info.packed_num_buffers
        rank = init_info.rank_offset + self.parallel_config.rank
        address, port, seconds = init_info.master_address, init_info.master_port, init_info.timeout_seconds
        self.model_update_group = HostGroup(address, port, rank, init_info.world_size, seconds)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive all weights; complete on return.

        Overrides the base class, which synchronizes an accelerator even where there is none.
        """
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        """Receive and load. After an error the group cannot be used again, and is left: nobody shall wait for us."""
        try:
            super().receive_weights(update_info)
        except BaseException:
            self.shutdown()
            raise

    def finish_weight_update(self) -> None:
        """Put the loaded layers into service."""
        put_into_service(self.model, self.model_config)


class GlooTrainerEngine(GroupTrainerEngine):
    """The sending end on every policy rank."""

    init_info_cls = GlooTrainerInitInfo

    @classmethod
    def join(cls, init_info: GlooTrainerInitInfo, listening: socket.socket) -> HostGroup:
        """Join as rank 0."""
        address, port = listening.getsockname()
        return HostGroup(address, port, 0, init_info.world_size, init_info.timeout_seconds, listening)

    @classmethod
    def worker_init_info(cls, init_info: GlooTrainerInitInfo, common: dict[str, Any]) -> GlooInitInfo:
        """What the engines get."""
        return GlooInitInfo(timeout_seconds=init_info.timeout_seconds, **common)


class _NoStream:
    """In place of a CUDA stream: what it would wait for is done already."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


def use_host_memory() -> None:
    """Let vLLM's packed transfer run where there are no CUDA streams: these are all the names of CUDA that it uses.

    `torch.cuda.stream` is one, too, and does nothing in a torch without CUDA.
    """
    on_host = ModuleType("torch")
    vars(on_host).update(vars(torch), accelerator=SimpleNamespace(current_device_index=lambda: 0))
    packed_tensor.torch = on_host
    packed_tensor._get_streams = lambda device_idx, num_buffers: (_NoStream(),) * num_buffers


def register() -> None:
    """Register both ends with vLLM's factories in this process. Idempotent."""
    if not torch.cuda.is_available():
        use_host_memory()
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, GlooWeightTransferEngine)
    if BACKEND not in WeightTransferTrainerFactory._registry:
        WeightTransferTrainerFactory.register_engine(BACKEND, GlooTrainerEngine)
