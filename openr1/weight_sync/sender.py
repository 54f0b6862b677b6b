"""The sending end of a weight push on every policy rank: vLLM's weight transfer, driven over Ray."""

from collections.abc import Iterator

import torch
from ray.actor import ActorHandle
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerWeightTransferEngine, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from openr1.interfaces import WeightProvider
from openr1.types import WeightVersion
from openr1.weight_sync import shm
from openr1.weight_sync.engine_client import EngineClient


class ProviderSource(WeightSource):
    """Adapts a `WeightProvider` to vLLM's `WeightSource`."""

    def __init__(self, weights: WeightProvider) -> None:
        self._weights = weights

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and full shapes, without gathering sharded parameters."""
        return [ParamMeta(name, dtype, shape) for name, dtype, shape in self._weights.weight_shapes()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._weights.weights()


class Sender:
    """See `interfaces.WeightSender`."""

    def __init__(self, transfer: TrainerWeightTransferEngine, client: EngineClient) -> None:
        """`client` must be the one that `transfer` was built with: `push` sets its version."""
        self._transfer = transfer
        self._client = client

    def push(self, version: WeightVersion) -> None:
        """Push the current weights and check that every engine reports `version`."""
        self._client.version = version
        self._transfer.send_weights()


def connect(weights: WeightProvider, rank: int, engines: list[ActorHandle], folder: str, seconds: float) -> Sender:
    """Build the shared-memory sender of a rank. Every rank calls this; see `backends.ShmSenderFactory`."""
    shm.register()
    client = EngineClient(engines, seconds)
    init_info = shm.ShmTrainerInitInfo(rank=rank, folder=folder)
    transfer = WeightTransferTrainerFactory.trainer_init(init_info, client=client, source=ProviderSource(weights))
    return Sender(transfer, client)
