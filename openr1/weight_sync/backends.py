"""Registry of weight transfers. Importable without vLLM: the driver only names a transfer, workers and engines load it.

To add one, write a module with both ends beside `shm.py` and a factory here. Outside this package only the composition
root (`actors/rl.py`), which chooses the factory, changes.
"""

from dataclasses import dataclass

from ray.actor import ActorHandle

from openr1.interfaces import WeightProvider, WeightSender

WEIGHT_TRANSFER_BACKEND = "openr1_shm"
"""Transfer through shared memory: policy and engines on one machine, with or without GPUs."""


@dataclass(frozen=True)
class ShmSenderFactory:
    """Builds senders that push through a folder in shared memory; see `interfaces.WeightSenderFactory`.

    Attributes:
        engines: All engines of the run.
        folder: An existing folder in shared memory that belongs to this run.
        timeout_seconds: Deadline of each call to the engines.
    """

    engines: list[ActorHandle]
    folder: str
    timeout_seconds: float

    def __call__(self, weights: WeightProvider, rank: int) -> WeightSender:
        """Connect policy rank `rank` to the engines. Every rank calls this."""
        # Imported late: this runs in a worker, and the driver must not load vLLM.
        from openr1.weight_sync.sender import connect

        return connect(weights, rank, self.engines, self.folder, self.timeout_seconds)
