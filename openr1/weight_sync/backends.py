"""Names of the weight transfers, and what the driver sends to the policy ranks. Importable without vLLM.

To add one, write a module with both ends beside `shm.py`, and name it here, in `sender.init_info` and in `choice.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ray.actor import ActorHandle

from openr1.interfaces import WeightProvider, WeightSender

Transport = Literal["shm", "gloo", "nccl", "ipc"]

VLLM_NAMES: dict[Transport, str] = {"shm": "openr1_shm", "gloo": "openr1_gloo", "nccl": "nccl", "ipc": "ipc"}
"""Names of the receiving ends in vLLM's registry."""


@dataclass(frozen=True)
class SenderFactory:
    """Builds the sending ends; see `interfaces.WeightSenderFactory`.

    Attributes:
        transport: How weights travel; the engines were started with the same.
        engines: All engines of the run.
        folder: An existing folder in shared memory that belongs to this run; used by shm.
        timeout_seconds: Deadline of a push and of what may follow it; see `sender.Sender`.
    """

    transport: Transport
    engines: Sequence[ActorHandle]
    folder: str
    timeout_seconds: float

    def __call__(self, weights: WeightProvider, rank: int) -> WeightSender:
        """Connect policy rank `rank` to the engines. Every rank calls this."""
        # Imported late: this runs in a worker, and the driver must not load vLLM.
        from openr1.weight_sync.sender import Sender

        return Sender(weights, rank, self)
