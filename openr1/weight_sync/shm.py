"""Weights through shared memory: a backend of vLLM's weight transfer for engines on the trainer's machine.

The sender writes one safetensors file into shared memory and sends its path; every engine maps the file and loads
it through vLLM's layerwise reload. There is no rendezvous that could hang, and a file is complete before its path
is known to anyone. Both ends live here because both must agree on the file.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from openr1.weight_sync.backends import WEIGHT_TRANSFER_BACKEND

BACKEND = WEIGHT_TRANSFER_BACKEND


@dataclass
class ShmInitInfo(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):
    """Where the weights of this push are."""

    path: str


class ShmWeightTransferEngine(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):
    """The receiving end, inside a vLLM worker."""

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Make the model's layers ready to be loaded again."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, str]) -> None:
        """Load the file; complete on return (the base class would synchronize a device that may not exist)."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        """Load every tensor of the file into the model."""
        self.model.load_weights(_read_tensors(update_info.path))

    def finish_weight_update(self) -> None:
        """Put the loaded layers into service.

        On CPU vLLM packs a copy of each weight for its matrix products. The reload packs every layer that has its own
        weights; a head tied to the embedding has none, and would go on with the copy of the old embedding.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Nothing is held between pushes."""


def _read_tensors(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor, one at a time, from a mapped safetensors file."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            yield name, file.get_tensor(name)


@dataclass
class ShmTrainerInitInfo(TrainerInitInfo):
    """What the sending end needs: a folder in shared memory that exists and belongs to this run."""

    backend: ClassVar[str] = BACKEND

    folder: str


class ShmTrainerEngine(TrainerWeightTransferEngine[ShmTrainerInitInfo]):
    """The sending end, on every policy rank; rank 0 writes."""

    init_info_cls = ShmTrainerInitInfo

    def __init__(
        self, *, client: VLLMWeightSyncClient, source: WeightSource, is_sender: bool = True, folder: str
    ) -> None:
        super().__init__(client=client, source=source, is_sender=is_sender)
        self._folder = Path(folder)
        self._pushes = 0

    @classmethod
    def trainer_init(
        cls, init_info: ShmTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        """Build the sending end and tell the engines."""
        if source is None:
            raise ValueError("the shared-memory backend needs a WeightSource")
        engine = cls(client=client, source=source, is_sender=init_info.is_sender, folder=init_info.folder)
        if engine.is_sender:
            client.init_weight_transfer_engine(asdict(ShmInitInfo()))
        return engine

    def send_weights(self) -> None:
        """Push the source's weights to all engines; every rank calls this, since gathering is a collective."""
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        self._pushes += 1
        # A new name for every push: an engine must never map a file that is being written.
        path = self._folder / f"push-{self._pushes:06d}.safetensors"
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in self.source}, path)
            self.client.start_weight_update()
            self.client.update_weights(asdict(ShmUpdateInfo(path=str(path))))
            self.client.finish_weight_update()
        finally:
            path.unlink(missing_ok=True)


def register() -> None:
    """Make both ends known to vLLM in this process; safe to call twice."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, ShmWeightTransferEngine)
    if BACKEND not in WeightTransferTrainerFactory._registry:
        WeightTransferTrainerFactory.register_engine(BACKEND, ShmTrainerEngine)
