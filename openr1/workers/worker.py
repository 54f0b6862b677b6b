"""One data-parallel rank of the policy or the critic: a Ray actor with a process group and a learner."""

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import Objective, StepStats
from openr1.interfaces import WeightSender, WeightSenderFactory
from openr1.runtime.faults import FAULTS
from openr1.runtime.network import use_interface
from openr1.runtime.process import log_to
from openr1.types import WeightVersion
from openr1.workers.settings import LearnerSettings, WorkerSettings

if TYPE_CHECKING:
    from openr1.workers.background import WriterState
    from openr1.workers.learner import Learner, PolicyLearner


class TrainWorker:
    """Training worker of one rank. All methods but `open_store` are collectives: call them on all ranks together."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Prepare the process. Call `load_model` next."""
        log_to(settings.log_path)
        FAULTS.prepare(settings.log_path.stem)
        torch.set_num_threads(settings.threads)
        os.environ |= {
            "RANK": str(settings.rank),
            "WORLD_SIZE": str(settings.num_ranks),
            # Each rank sees only its GPU, as device 0, because Ray sets CUDA_VISIBLE_DEVICES. LOCAL_SIZE stays unset:
            # with it, DeepSpeed reduces gradients through shared memory whose name all runs on the machine share.
            "LOCAL_RANK": "0" if settings.on_gpu else str(settings.rank),
            # Of torch: checkpoints may hold tensors and plain values only, although DeepSpeed would unpickle anything.
            "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        }
        os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
        self._address = use_interface(settings.interface)
        self._settings = settings
        self._store: dist.TCPStore | None = None
        self._learner: Learner | None = None
        self._sender: WeightSender | None = None

    def open_store(self) -> tuple[str, int]:
        """On rank 0 only: open the rendezvous store on a free port chosen by the system; returns address and port."""
        self._store = listening_store(self._address, self._settings.num_ranks)
        return self._address, self._store.port

    def load_model(self, store_at: tuple[str, int], learner: LearnerSettings) -> None:
        """Join the process group of all ranks, through rank 0's store, and build the learner."""
        settings = self._settings
        limit = timedelta(seconds=settings.timeout_seconds)
        store = self._store or dist.TCPStore(*store_at, settings.num_ranks, is_master=False, timeout=limit)
        communication = "nccl" if settings.on_gpu else "gloo"
        dist.init_process_group(communication, None, limit, settings.num_ranks, settings.rank, store)
        # Imported late: heavy, and DeepSpeed needs the environment and the process group to exist first.
        from openr1.workers.deepspeed.backend import init_process_group
        from openr1.workers.learner import build_learner

        init_process_group(communication)
        self._learner = build_learner(learner)

    def predict(self, micro_batches: list[TrainBatch], adapters: bool = True) -> list[Tensor]:
        """See `Learner.predict`, and `PolicyLearner.predict_base` for `adapters=False` (policy only)."""
        return self.learner.predict(micro_batches) if adapters else self.policy.predict_base(micro_batches)

    def step(self, micro_batches: list[TrainBatch], objective: Objective[Any, Any], apply: bool) -> StepStats[Any]:
        """See `Learner.step`."""
        return self.learner.step(micro_batches, objective, apply)

    def save(self, folder: Path) -> None:
        """See `Backend.save`. Begins a checkpoint: what could not be written of the one before is forgotten."""
        FAULTS.at("save")
        self.learner.writer.start_over()
        self.learner.backend.save(folder)

    def written(self) -> "WriterState":
        """How far the files of `save` and `export` are; see `BackgroundWriter.state`."""
        return self.learner.writer.state()

    def load(self, folder: Path) -> int | None:
        """See `Backend.load`."""
        return self.learner.backend.load(folder)

    def offload(self) -> None:
        """See `Backend.offload`."""
        self.learner.backend.offload()

    def reload(self) -> None:
        """See `Backend.reload`."""
        self.learner.backend.reload()

    def connect_engines(self, make_sender: WeightSenderFactory) -> None:
        """Set up the sending end of the weight transfer (policy only)."""
        self._sender = make_sender(self.policy, self._settings.rank)

    def push_weights(self, version: WeightVersion) -> None:
        """Push the current weights to all engines as `version` (policy only, after `connect_engines`)."""
        assert self._sender is not None
        FAULTS.at("push")
        self._sender.push(version)

    def reconnect_engines(self, engines: list[Any]) -> None:
        """See `PolicyGroup.reconnect_engines` (policy only, after `connect_engines`)."""
        assert self._sender is not None
        self._sender.reconnect(engines)

    def export(self, folder: Path) -> None:
        """See `PolicyLearner.export`."""
        self.policy.export(folder)

    @property
    def learner(self) -> "Learner":
        """The learner. Requires `load_model`."""
        assert self._learner is not None
        return self._learner

    @property
    def policy(self) -> "PolicyLearner":
        """The learner of a policy worker."""
        from openr1.workers.learner import PolicyLearner

        assert isinstance(self._learner, PolicyLearner)
        return self._learner


def listening_store(address: str, num_ranks: int) -> dist.TCPStore:
    """A rendezvous store that listens on an address, at a free port chosen by the system.

    A store that opens its own port listens on all interfaces, whatever address it gets; and it asks nobody for a token.
    """
    listening = socket.create_server((address, 0))
    port: int = listening.getsockname()[1]
    # The store closes the descriptor.
    return dist.TCPStore(
        address, port, num_ranks, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
