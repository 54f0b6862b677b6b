"""Reserves the GPUs of a placement in Ray: one placement group, all of it or nothing, with a deadline."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from openr1.errors import MissingError, StageTimeout
from openr1.placement.layouts import Demand, Layout, Placement, place, place_on_cpu
from openr1.runtime.ray_calls import gather

PROBE_SECONDS = 60.0
"""Deadline of the tasks that ask each reserved GPU for its node and number."""


@dataclass(frozen=True)
class Gpu:
    """A reserved GPU: its bundle in the placement group, and where it is."""

    bundle: int
    node: str
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
        return cls(place_on_cpu(demand))

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
def reserve(layout: Literal["auto"] | Layout, demand: Demand, timeout_seconds: float) -> Iterator[Places]:
    """Place a run on the cluster that Ray is connected to, and hold its GPUs for the block.

    Raises:
        ConfigError: The layout does not fit on the GPUs that the cluster has.
        MissingError: The GPUs are there, but were not free within `timeout_seconds`.
    """
    by_node = gpus_by_node() if has_gpu_stack() else {}
    placement = place(layout, demand, sum(by_node.values()), _describe(by_node))
    if not placement.on_gpu:
        yield Places(placement)
        return
    group = placement_group([{"GPU": 1}] * placement.num_gpus, strategy="PACK")
    try:
        try:
            gather([group.ready()], timeout_seconds, f"the run waits for {placement.num_gpus} free GPU(s)")
        except StageTimeout as error:
            raise MissingError(
                f"{error} (placement.timeout_seconds): {placement.describe()}; {_describe(by_node)}"
            ) from error
        gpus = _locate(group, placement.num_gpus)
        _check_engines(placement, gpus)
        yield Places(placement, group, gpus)
    finally:
        remove_placement_group(group)


def has_gpu_stack() -> bool:
    """Whether the installed PyTorch can use GPUs at all: with the CPU stack the GPUs of a machine are left alone."""
    return torch.version.cuda is not None


def gpus_by_node() -> dict[str, int]:
    """GPUs of each living node of the cluster that has any, by address."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    counts = {node["NodeManagerAddress"]: int(node["Resources"].get("GPU", 0)) for node in nodes}
    return {address: count for address, count in counts.items() if count}


def _describe(by_node: dict[str, int]) -> str:
    """What there is, in words."""
    if len(by_node) > 1:
        nodes = ", ".join(f"{address}: {count}" for address, count in by_node.items())
        return f"the cluster has {sum(by_node.values())} GPU(s) ({nodes})"
    if not by_node and not has_gpu_stack():
        return "the CPU stack is installed, which uses no GPU (OPENR1_STACK=cuda bash scripts/setup.sh changes it)"
    return f"this machine has {sum(by_node.values())} GPU(s)"


def _locate(group: PlacementGroup, num_gpus: int) -> tuple[Gpu, ...]:
    """The reserved GPUs in the order (node, number), in which Ray does not number its bundles."""

    def where() -> tuple[str, str]:
        return ray.util.get_node_ip_address(), str(ray.get_gpu_ids()[0])

    probes = []
    for bundle in range(num_gpus):
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
        probes.append(ray.remote(where).options(num_cpus=0, num_gpus=1, scheduling_strategy=strategy).remote())
    found = gather(probes, PROBE_SECONDS, f"the run waits for {num_gpus} reserved GPU(s) to answer")
    gpus = [Gpu(bundle, node, number) for bundle, (node, number) in enumerate(found)]
    return tuple(sorted(gpus, key=lambda gpu: (gpu.node, int(gpu.number))))


def _check_engines(placement: Placement, gpus: tuple[Gpu, ...]) -> None:
    """An engine's worker processes run on one node."""
    for engine in placement.engines:
        nodes = sorted({gpus[gpu].node for gpu in engine})
        if len(nodes) > 1:
            raise MissingError(
                f"an engine over {len(engine)} GPUs would span the nodes {', '.join(nodes)}; lower "
                "rollout.tensor_parallel_size, or free GPUs of one node"
            )
