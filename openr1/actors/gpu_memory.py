"""Who has the memory of GPUs that engines and training workers share: both all the time, or each in its turn."""

from collections.abc import Sequence

from ray.actor import ActorHandle

from openr1.runtime.ray_calls import gather, numbered
from openr1.workers.group import WorkerGroup


class KeptMemory:
    """See `interfaces.GpuMemory`. Everyone keeps what he has."""

    def for_training(self) -> None:
        """Nothing moves."""

    def for_generation(self) -> None:
        """Nothing moves."""


class MemoryInTurns:
    """See `interfaces.GpuMemory`. Training has the first turn: `for_generation` is called first.

    Never both at once: a part of the training state and an engine do not fit on a GPU together, and vLLM takes memory
    that another process claims while an engine falls asleep for a fault of its own.
    """

    def __init__(self, engines: list[ActorHandle], groups: Sequence[WorkerGroup], timeout_seconds: float) -> None:
        """Take sleeping engines and the groups of all trained models; `timeout_seconds`: for engines to release."""
        self._engines = engines
        self._groups = groups
        self._timeout_seconds = timeout_seconds

    def for_training(self) -> None:
        """Engines drop weights and KV cache; then training state comes back from host memory."""
        put_to_sleep(self._engines, self._timeout_seconds)
        for group in self._groups:
            group.reload()

    def for_generation(self) -> None:
        """Training state goes to host memory. Engines take the memory that it leaves at the push that follows."""
        for group in self._groups:
            group.offload()


def put_to_sleep(engines: list[ActorHandle], timeout_seconds: float) -> None:
    """Have all engines release the memory of their GPUs until the next push."""
    waiting = f"the trainer waits for {len(engines)} engine(s) to release their GPU memory"
    calls, names = [engine.sleep.remote() for engine in engines], numbered("engine", len(engines))
    gather(calls, timeout_seconds, f"{waiting} (policy.timeout_seconds)", names)
