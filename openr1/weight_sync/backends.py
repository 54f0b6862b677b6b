"""The weight transfers there are, importable without vLLM: the driver names them, workers and engines load them.

Another transfer is a module beside `shm.py` with both ends, and a factory here; nothing outside this package changes
but the composition root (`training/actors.py`), which chooses the factory.
"""

from dataclasses import dataclass

from ray.actor import ActorHandle

from openr1.interfaces import WeightProvider, WeightSender

WEIGHT_TRANSFER_BACKEND = "openr1_shm"
"""Shared memory: engines and policy on one machine, with or without GPUs."""


@dataclass(frozen=True)
class ShmSenderFactory:
    """Builds senders that push through a folder in shared memory; see `interfaces.WeightSenderFactory`.

    Attributes:
        engines: All engines of the run.
        folder: Exists, in shared memory, and belongs to this run.
        timeout_seconds: Deadline of each call to the engines.
    """

    engines: list[ActorHandle]
    folder: str
    timeout_seconds: float

    def __call__(self, weights: WeightProvider, rank: int) -> WeightSender:
        """Connect rank `rank` to the engines; every rank calls this."""
        # vLLM is loaded in worker processes only.
        from openr1.weight_sync.sender import connect

        return connect(weights, rank, self.engines, self.folder, self.timeout_seconds)
