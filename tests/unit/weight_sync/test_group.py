"""What engines are told about the group of a transfer, by actors that write it down; no GPU and no vLLM engine."""

import ast
import inspect
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from vllm.distributed.weight_transfer import packed_tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo

from openr1.actors.workers import worker_variables
from openr1.errors import StageTimeout
from openr1.weight_sync import ipc
from openr1.weight_sync.engine_client import EngineClient
from openr1.weight_sync.nccl import NcclTrainerEngine, NcclTrainerInitInfo

pytestmark = pytest.mark.timeout(120)


class Listing:
    """Answers in place of an engine, and writes down what it was told."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._told: dict[str, Any] = {}

    async def tensor_parallel_size(self) -> int:
        return self._size

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        self._told = init_info

    async def start_weight_update(self) -> None:
        import asyncio

        if self._size == 1:
            await asyncio.sleep(60)

    async def told(self) -> dict[str, Any]:
        return self._told


@pytest.fixture(autouse=True)
def interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a worker, which has chosen its interface before it sends."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


@pytest.fixture(scope="module")
def engines(ray_cluster: None) -> list[ray.actor.ActorHandle]:
    """Engines of 2, 1 and 4 processes."""
    return [ray.remote(Listing).options(num_cpus=0).remote(size) for size in (2, 1, 4)]


class Weights(WeightSource):
    """Nothing is sent here."""

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta("a", torch.float32, (2**14, 2**13)), ParamMeta("b", torch.bfloat16, (3,))]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(())


class WaitingTrainerEngine(NcclTrainerEngine):
    """Rank 0 without NCCL: it tells whether it can be reached where the engines were told."""

    @classmethod
    def join(cls, init_info: NcclTrainerInitInfo, listening: socket.socket) -> socket.socket:
        return listening


def test_each_engine_has_ranks_of_its_own(engines: list[ray.actor.ActorHandle]) -> None:
    """Catches engines that all join as rank 1, a group that waits for more than there are, a field that vLLM does not
    know, and a port that somebody else may take before rank 0 does.

    Of 8 ranks the policy has 0; the engines have 1-2, 3 and 4-7.
    """
    client = EngineClient(engines, 60)
    info = NcclTrainerInitInfo(rank=0, world_size=1 + sum(client.tensor_parallel_sizes()), timeout_seconds=60)
    engine = WaitingTrainerEngine.trainer_init(info, client=client, source=Weights())
    told = [NCCLWeightTransferInitInfo(**one) for one in ray.get([actor.told.remote() for actor in engines])]
    assert [one.rank_offset for one in told] == [1, 3, 4]
    assert {(one.world_size, one.packed) for one in told} == {(8, True)}
    address = {(one.master_address, one.master_port) for one in told}
    assert address == {engine.model_update_group.getsockname()}
    assert address.pop()[0] == "127.0.0.1"
    engine.model_update_group.close()


def test_only_rank_0_forms_the_group(engines: list[ray.actor.ActorHandle]) -> None:
    """Catches a second rank that joins, or that calls the engines."""
    info = NcclTrainerInitInfo(rank=1, world_size=1, timeout_seconds=60)
    other = WaitingTrainerEngine.trainer_init(info, client=EngineClient([], 1), source=Weights())
    assert other.model_update_group is None


def test_calls_of_a_push_share_a_deadline_that_names_who_lags(engines: list[ray.actor.ActorHandle]) -> None:
    """Catches a push that takes a deadline for each of its calls, and an engine that is not named."""
    client = EngineClient(engines, 60)
    client.set_deadline(1.0)
    with pytest.raises(
        StageTimeout, match=r"for 3 engine\(s\) to begin a weight update: engine 1: not done within 1 s"
    ):
        client.start_weight_update()
    assert client.what_failed(ValueError()).endswith("to begin a weight update: engine 1: not done within 1 s")
    with pytest.raises(StageTimeout, match="not done within 0 s"):
        client.start_weight_update()


def test_names_of_cuda_that_the_packed_transfer_uses() -> None:
    """Catches a vLLM whose packing needs more of CUDA than `gloo.use_host_memory` replaces; it would fail in the first
    push of a run. Streams are made by `_get_streams` alone, and `torch.cuda.stream` does nothing without CUDA.
    """
    used = set()
    for function in (
        packed_tensor.packed_nccl_broadcast_producer,
        packed_tensor.packed_nccl_broadcast_consumer,
        packed_tensor.pack_tensors,
        packed_tensor.unpack_tensor,
    ):
        for node in ast.walk(ast.parse(inspect.getsource(function))):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if text.startswith(("torch.cuda.", "torch.accelerator.")):
                used.add(text)
    assert used == {"torch.accelerator.current_device_index", "torch.cuda.stream"}
    with torch.cuda.stream(object()):  # type: ignore[arg-type]
        pass


class Failing:
    """A client whose first piece fails."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None:
        self.calls.append("start")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.calls.append(f"update {update_info['number']}")
        raise ValueError(f"piece {update_info['number']}")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append("finish")


def test_an_error_waits_until_no_rank_waits() -> None:
    """Catches rank 0 leaving the exchange of IPC handles while the others are in it, weights that are put into service
    after an error, and an error that is lost.
    """
    client = Failing()
    postponed = ipc.Postponed(client)
    postponed.start_weight_update()
    for number in range(3):
        postponed.update_weights({"number": number})
    postponed.finish_weight_update()
    assert client.calls == ["start", "update 0"]
    with pytest.raises(ValueError, match="piece 0"):
        postponed.raise_error()


def test_memory_that_ipc_can_hand_out() -> None:
    """Catches policy ranks whose memory CUDA IPC cannot share, and ranks without IPC that fragment theirs."""
    assert "PYTORCH_ALLOC_CONF" not in worker_variables(True, "ipc")
    assert worker_variables(True, "nccl")["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_the_largest_weight_fits_into_a_piece() -> None:
    """Catches an embedding that is larger than the buffer, which vLLM refuses: 2^14 x 2^13 float32 are 512 MiB."""
    assert ipc.buffer_bytes(Weights()) == 2**29
