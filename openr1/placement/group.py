"""Reserves the GPUs of a placement in Ray: one placement group, all of it or nothing, with a deadline."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from openr1.placement.layouts import Demand, Layout, Machine, Placement, place, place_on_cpu
from openr1.runtime.ray_calls import gather

RESERVE_SECONDS = 60.0
"""Deadline of Ray's reservation, and of the tasks that ask each reserved GPU for its number."""


@dataclass(frozen=True)
class Gpu:
    """A reserved GPU: its bundle in the placement group, and its number (or unique id) in CUDA_VISIBLE_DEVICES."""

    bundle: int
    number: str


@dataclass(frozen=True)
class Place:
    """GPUs of one actor.

    Attributes:
        group: The run's placement group.
        bundle: Bundle of its first GPU.
        share: Part of each of its GPUs that Ray accounts to it, so that all actors of a GPU add up to 1.
        visible: Numbers of its GPUs, for CUDA_VISIBLE_DEVICES, if there are several; empty leaves it to Ray.
    """

    group: PlacementGroup
    bundle: int
    share: float
    visible: str = ""

    def options(self) -> dict[str, Any]:
        """Options of the Ray actor."""
        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=self.bundle)
        return {"num_gpus": self.share, "scheduling_strategy": strategy}


def options_of(place: Place | None) -> dict[str, Any]:
    """Options of the Ray actor at a place; none for an actor on the CPU."""
    return {} if place is None else place.options()


class Places:
    """The places of all actors of a run. On the CPU every place is None."""

    def __init__(self, placement: Placement, group: PlacementGroup | None = None, gpus: tuple[Gpu, ...] = ()) -> None:
        """`gpus` are the reserved ones, in the order of the placement's numbers."""
        self.placement = placement
        self._group = group
        self._gpus = gpus

    @classmethod
    def on_cpu(cls, demand: Demand) -> "Places":
        """Of a run without GPUs."""
        return cls(place_on_cpu(demand, Machine(0)))

    @property
    def policy(self) -> list[Place | None]:
        """Of each policy rank."""
        return [self._of(gpu) for gpu in self.placement.policy]

    @property
    def critic(self) -> list[Place | None]:
        """Of each critic rank."""
        return [self._of(gpu) for gpu in self.placement.critic]

    @property
    def reference(self) -> list[Place | None]:
        """Of each copy of the reference."""
        return [self._of(gpu) for gpu in self.placement.reference]

    @property
    def engines(self) -> list[Place | None]:
        """Of each engine."""
        return [self._of(*gpus) for gpus in self.placement.engines]

    def _of(self, *gpus: int | None) -> Place | None:
        numbers = [gpu for gpu in gpus if gpu is not None]
        if self._group is None or not numbers:
            return None
        # Rounded down to what Ray counts, so that the shares of a GPU never exceed it.
        share = int(1e4 / max(self.placement.actors_per_gpu[gpu] for gpu in numbers)) / 1e4
        visible = ",".join(self._gpus[gpu].number for gpu in numbers) if len(numbers) > 1 else ""
        return Place(self._group, self._gpus[numbers[0]].bundle, share, visible)


@contextmanager
def reserve(layout: Literal["auto"] | Layout, demand: Demand) -> Iterator[Places]:
    """Place a run on the GPUs of the Ray instance that this process is connected to, and hold them for the block.

    Raises:
        ConfigError: The layout does not fit on these GPUs.
        StageTimeout: Ray did not hand them out within `RESERVE_SECONDS`.
    """
    placement = place(layout, demand, describe_machine())
    if not placement.on_gpu:
        yield Places(placement)
        return
    group = placement_group([{"GPU": 1}] * placement.num_gpus, strategy="PACK")
    try:
        gather([group.ready()], RESERVE_SECONDS, f"the run waits for Ray to reserve {placement.num_gpus} GPU(s)")
        yield Places(placement, group, _locate(group, placement.num_gpus))
    finally:
        remove_placement_group(group)


def has_gpu_stack() -> bool:
    """Whether the installed stack is that for GPUs: the CPU stack leaves a machine's GPUs alone."""
    return torch.version.cuda is not None


def describe_machine() -> Machine:
    """What a run may use: the GPUs that Ray counts, which respects CUDA_VISIBLE_DEVICES."""
    if not has_gpu_stack():
        reason = "the CPU stack is installed, which uses no GPU (OPENR1_STACK=cuda bash scripts/setup.sh changes it)"
        return Machine(0, engines_on_cpu=True, description=reason)
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    return Machine(num_gpus, engines_on_cpu=False, description=f"this machine has {num_gpus} GPU(s)")


def _locate(group: PlacementGroup, num_gpus: int) -> tuple[Gpu, ...]:
    """The reserved GPUs in the order of their numbers, in which Ray does not number its bundles."""

    def which() -> str:
        return str(ray.get_gpu_ids()[0])

    probes = []
    for bundle in range(num_gpus):
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
        probes.append(ray.remote(which).options(num_cpus=0, num_gpus=1, scheduling_strategy=strategy).remote())
    found = gather(probes, RESERVE_SECONDS, f"the run waits for {num_gpus} reserved GPU(s) to answer")
    return tuple(Gpu(bundle, found[bundle]) for bundle in sorted(range(num_gpus), key=lambda b: _order(found[b])))


def _order(number: str) -> tuple[int, str]:
    """Sorts 2 before 10; the unique ids that CUDA_VISIBLE_DEVICES may hold instead (GPU-..., MIG-...) as text."""
    return (int(number), "") if number.isdigit() else (0, number)
