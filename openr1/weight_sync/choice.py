"""Which weight transfer a run uses, from where its policy and its engines are. Pure; importable without vLLM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from openr1.errors import ConfigError
from openr1.weight_sync.backends import Transport


@dataclass(frozen=True)
class Site:
    """Where policy and engines are.

    Attributes:
        num_nodes: Machines that host the driver, policy rank 0 or an engine.
        policy: GPU of each policy rank, a number that no other GPU of the run has; None on the CPU.
        engines: GPUs of each engine; none on the CPU.
    """

    num_nodes: int
    policy: Sequence[int | None]
    engines: Sequence[Sequence[int]]

    @property
    def on_gpu(self) -> bool:
        """Whether policy and engines are on GPUs: all of them are, or none."""
        return all(gpu is not None for gpu in self.policy)

    @property
    def beside_rank_0(self) -> list[int]:
        """Engines on the GPU of policy rank 0."""
        return [index for index, gpus in enumerate(self.engines) if self.on_gpu and self.policy[0] in gpus]

    @property
    def apart(self) -> list[int]:
        """Engines with a GPU on which there is no policy rank."""
        return [index for index, gpus in enumerate(self.engines) if not set(gpus) <= set(self.policy)]


def choose_transport(wanted: Literal["auto"] | Transport, site: Site) -> Transport:
    """The transfer of a run; `wanted` is `weight_sync.backend`.

    `auto` is shm on one machine; on several, nccl between GPUs if no engine is on that of policy rank 0, else gloo.

    Raises:
        ConfigError: The wanted one cannot reach all engines.
    """
    if wanted == "auto":
        if site.num_nodes == 1:
            return "shm"
        return "nccl" if site.on_gpu and not site.beside_rank_0 else "gloo"
    if wanted == "shm" and site.num_nodes > 1:
        raise ConfigError(
            f"weight_sync.backend shm needs policy and engines on one machine, and they are on {site.num_nodes}: take "
            "auto, nccl or gloo"
        )
    if wanted in ("nccl", "ipc") and not site.on_gpu:
        raise ConfigError(
            f"weight_sync.backend {wanted} is for GPUs, and policy and engines are on the CPU: take auto, shm or gloo"
        )
    if wanted == "nccl" and site.beside_rank_0:
        raise ConfigError(
            f"weight_sync.backend nccl cannot have two ends on one GPU, and engine {site.beside_rank_0[0]} is on that "
            "of policy rank 0: take auto, or placement.layout separate"
        )
    if wanted == "ipc" and site.apart:
        raise ConfigError(
            f"weight_sync.backend ipc needs a policy rank on every GPU of an engine, and engine {site.apart[0]} has "
            "one without: take auto, or placement.layout colocated"
        )
    return wanted
