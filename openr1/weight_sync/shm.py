"""Weight transfer through shared memory: a backend of vLLM's weight transfer for engines on the trainer's machine.

The sender writes one safetensors file into shared memory and sends its path. Every engine maps the file and loads it
through vLLM's layerwise reload. There is no rendezvous that could hang, and the file is complete before its path is
sent. Both ends are in this module because they must agree on the file format.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors import safe_open
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
from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

from openr1.weight_sync.backends import VLLM_NAMES
from openr1.weight_sync.reload import put_into_service
from openr1.weight_sync.stream import write_tensors

BACKEND = VLLM_NAMES["shm"]


@dataclass
class ShmInitInfo(WeightTransferInitInfo):
    """Empty: the two ends need no handshake."""


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):
    """Path of the file with the weights of this push."""

    path: str


class ShmWeightTransferEngine(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):
    """The receiving end, inside a vLLM worker."""

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Prepare the model's layers for reloading."""
        # Loading alone would not do: after the first load vLLM has packed or fused the weights of many layers.
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, str]) -> None:
        """Load the file; complete on return.

        Overrides the base class, which synchronizes an accelerator even where there is none.
        """
        self.receive_weights(self.parse_update_info(update_info))
        # The sender deletes the file after this returns, so no copy from it may still be in progress.
        if self.device.type == "cuda":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        """Load every tensor of the file into the model."""
        self.model.load_weights(_read_tensors(update_info.path))

    def finish_weight_update(self) -> None:
        """Put the loaded layers into service."""
        put_into_service(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to release: no resources are held between pushes."""


def _read_tensors(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and tensor, one at a time, from a memory-mapped safetensors file."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
            yield name, file.get_tensor(name)


@dataclass
class ShmTrainerInitInfo(TrainerInitInfo):
    """What the sending end needs: an existing folder in shared memory that belongs to this run."""

    backend: ClassVar[str] = BACKEND

    folder: str


class ShmTrainerEngine(TrainerWeightTransferEngine[ShmTrainerInitInfo]):
    """The sending end on every policy rank. Only rank 0 writes the file and talks to the engines."""

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
        """Build the sending end; rank 0 also sets up the receiving ends."""
        if source is None:
            raise ValueError("the shared-memory backend needs a WeightSource")
        engine = cls(client=client, source=source, is_sender=init_info.is_sender, folder=init_info.folder)
        if engine.is_sender:
            client.init_weight_transfer_engine(asdict(ShmInitInfo()))
        return engine

    def send_weights(self) -> None:
        """Push the source's weights to all engines. Every rank calls this, since gathering is a collective."""
        if not self.is_sender:
            # Iterating gathers each parameter; a rank that did not take part would block rank 0.
            for _ in self.source:
                pass
            return
        self._pushes += 1
        # A new name for every push, so that no engine can map a file that is being written.
        path = self._folder / f"push-{self._pushes:06d}.safetensors"
        try:
            shapes = [(one.name, one.dtype, tuple(one.shape)) for one in self.source.metadata()]
            write_tensors(path, shapes, self.source)
            # The engines are paused only from here on, not while the weights are gathered and written.
            self.client.start_weight_update()
            self.client.update_weights(asdict(ShmUpdateInfo(path=str(path))))
            self.client.finish_weight_update()
        finally:
            # Also after an error: the file takes as much memory as the model.
            path.unlink(missing_ok=True)


def register() -> None:
    """Register both ends with vLLM's factories in this process. Idempotent."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, ShmWeightTransferEngine)
    if BACKEND not in WeightTransferTrainerFactory._registry:
        WeightTransferTrainerFactory.register_engine(BACKEND, ShmTrainerEngine)
