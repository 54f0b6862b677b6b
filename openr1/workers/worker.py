"""One data-parallel rank of policy or critic in a Ray actor: a process, a process group, a learner."""

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from torch import Tensor

from openr1.algorithms.batch import PairBatch, TrainBatch
from openr1.runtime.process import log_to
from openr1.types import WeightVersion
from openr1.workers.settings import LearnerSettings, RankSettings
from openr1.workers.update import LossSettings

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import TrainerWeightTransferEngine

    from openr1.workers.learner import CriticLearner, PolicyLearner


LOOPBACK = "127.0.0.1"
"""All ranks run on one machine."""


class RankActor:
    """Rank `settings.rank`. Methods named as the learner's are collectives: call them on all ranks."""

    _learner: "PolicyLearner | CriticLearner"

    def __init__(self, settings: RankSettings) -> None:
        """Prepare the process; `load_model` and `connect_engines` follow."""
        log_to(settings.log_path)
        torch.set_num_threads(settings.threads)
        os.environ |= {
            "RANK": str(settings.rank),
            "WORLD_SIZE": str(settings.num_ranks),
            # Ray shows each rank its own GPU alone. LOCAL_SIZE stays unset: with it DeepSpeed would add up gradients in
            # shared memory under one name for all runs on the machine.
            "LOCAL_RANK": "0" if settings.on_gpu else str(settings.rank),
        }
        self._settings = settings
        self._store: dist.TCPStore | None = None

    def open_store(self) -> int:
        """On rank 0: open the meeting point of the ranks on a port that the system chooses; returns the port."""
        self._store = dist.TCPStore(LOOPBACK, 0, self._settings.num_ranks, is_master=True, wait_for_workers=False)
        return self._store.port

    def load_model(self, port: int, learner: LearnerSettings) -> None:
        """Join the other ranks and build the learner; every rank calls this at the same time."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """See `Learner.save`."""
        self._learner.save(folder)

    def load(self, folder: Path) -> None:
        """See `Learner.load`."""
        self._learner.load(folder)

    def _join(self, port: int) -> None:
        """Meet the other ranks, in a process group that DeepSpeed uses, too."""
        settings = self._settings
        store = self._store or dist.TCPStore(LOOPBACK, port, settings.num_ranks, is_master=False)
        backend = "nccl" if settings.on_gpu else "gloo"
        limit = timedelta(seconds=settings.timeout_seconds)
        dist.init_process_group(backend, None, limit, settings.num_ranks, settings.rank, store)
        import deepspeed

        deepspeed.init_distributed(dist_backend=backend)


class CriticActor(RankActor):
    """A rank of the critic."""

    _learner: "CriticLearner"

    def load_model(self, port: int, learner: LearnerSettings) -> None:
        """Join the other ranks and build the learner; every rank calls this at the same time."""
        self._join(port)
        from openr1.workers.learner import CriticLearner

        self._learner = CriticLearner(learner)

    def values(self, micro_batches: list[TrainBatch]) -> list[Tensor]:
        """See `CriticLearner.values`."""
        return self._learner.values(micro_batches)

    def update(self, micro_batches: list[TrainBatch], clip: float | None) -> dict[str, float]:
        """See `CriticLearner.update`."""
        return self._learner.update(micro_batches, clip)


class PolicyActor(RankActor):
    """A rank of the policy."""

    _learner: "PolicyLearner"

    def load_model(self, port: int, learner: LearnerSettings) -> None:
        """Join the other ranks and build the learner; every rank calls this at the same time."""
        self._join(port)
        from openr1.workers.learner import PolicyLearner

        self._learner = PolicyLearner(learner)

    def connect_engines(self, engines: list[ActorHandle], folder: str) -> None:
        """Set up the sending end of the weight transfer; every rank calls this."""
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        from openr1.weight_sync import shm
        from openr1.weight_sync.client import EngineClient
        from openr1.weight_sync.source import LearnerWeightSource

        shm.register()
        self._client: EngineClient = EngineClient(engines, self._settings.timeout_seconds)
        init_info = shm.ShmTrainerInitInfo(rank=self._settings.rank, folder=folder)
        source = LearnerWeightSource(self._learner)
        self._sender: TrainerWeightTransferEngine = WeightTransferTrainerFactory.trainer_init(
            init_info, client=self._client, source=source
        )

    def push_weights(self, version: WeightVersion) -> None:
        """Push the current weights to all engines as `version`."""
        self._client.version = version
        self._sender.send_weights()

    def log_probs(self, micro_batches: list[TrainBatch]) -> list[Tensor]:
        """See `PolicyLearner.log_probs`."""
        return self._learner.log_probs(micro_batches)

    def update(self, micro_batches: list[TrainBatch], loss: LossSettings) -> dict[str, float]:
        """See `PolicyLearner.update`."""
        return self._learner.update(micro_batches, loss)

    def measure(self, micro_batches: list[TrainBatch], loss: LossSettings) -> dict[str, float]:
        """See `PolicyLearner.measure`."""
        return self._learner.measure(micro_batches, loss)

    def supervised_update(
        self, micro_batches: list[TrainBatch], z_loss_coef: float, num_tokens: int
    ) -> dict[str, float]:
        """See `PolicyLearner.supervised_update`."""
        return self._learner.supervised_update(micro_batches, z_loss_coef, num_tokens)

    def preference_update(self, micro_batches: list[PairBatch], beta: float, num_pairs: int) -> dict[str, float]:
        """See `PolicyLearner.preference_update`."""
        return self._learner.preference_update(micro_batches, beta, num_pairs)

    def export(self, folder: Path) -> None:
        """See `PolicyLearner.export`."""
        self._learner.export(folder)
