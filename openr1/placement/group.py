"""Places actors on the nodes of a Ray cluster: on the CPU in turn, on GPUs reserved all at once or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from openr1.errors import ConfigError
from openr1.placement.layouts import Demand, Layout, Machine, Placement, place, place_on_cpu
from openr1.runtime.network import LOOPBACK
from openr1.runtime.nodes import Cluster, Node
from openr1.runtime.ray_calls import gather

RESERVE_SECONDS = 60.0
"""Deadline of Ray's reservation, and of the tasks that ask each reserved GPU for its number."""


LEAST_CPUS = 0.001
"""Part of a CPU of an actor that computes on all of them: Ray's count of CPUs limits nobody here."""


@dataclass(frozen=True)
class Gpu:
    """A reserved GPU: its bundle in the placement group, its node, and its number (or unique id) there."""

    bundle: int
    node: str
    number: str


@dataclass(frozen=True)
class Place:
    """Where one actor runs.

    Attributes:
        strategy: Ray's scheduling strategy.
        node: Id of the node at the start; "" without a Ray cluster.
        interface: Network interface to other actors, see `use_interface`.
        may_move: Whether Ray may start it again on another node.
        share: Part of each of its GPUs that Ray accounts to it, so that all actors of a GPU add up to 1. 0: no GPU.
        visible: Numbers of its GPUs, for CUDA_VISIBLE_DEVICES, if there are several; empty leaves it to Ray.
    """

    strategy: Any = "DEFAULT"
    node: str = ""
    interface: str | None = LOOPBACK
    may_move: bool = False
    share: float = 0.0
    visible: str = ""

    @property
    def on_gpu(self) -> bool:
        """Whether the actor uses GPUs."""
        return self.share > 0

    @property
    def options(self) -> dict[str, Any]:
        """Options of the Ray actor."""
        # Ray ignores the node that an actor would like to be on if the actor needs nothing there
        # (findings/ray_soft_affinity_needs_a_resource.sh).
        num_cpus = LEAST_CPUS if self.may_move else 0
        return {"num_cpus": num_cpus, "num_gpus": self.share, "scheduling_strategy": self.strategy}


class Places:
    """The places of all actors of a run."""

    def __init__(
        self,
        placement: Placement,
        nodes: tuple[Node, ...] = (),
        interface: str | None = LOOPBACK,
        group: PlacementGroup | None = None,
        gpus: tuple[Gpu, ...] = (),
    ) -> None:
        """Take the nodes of the cluster, and the reserved GPUs in the order of the placement's numbers."""
        self.placement = placement
        self._nodes = nodes
        self._interface = interface
        self._group = group
        self._gpus = gpus

    @classmethod
    def on_cpu(cls, demand: Demand) -> "Places":
        """Of a run without GPUs, wherever Ray starts its actors."""
        return cls(place_on_cpu(demand, Machine(0)))

    @property
    def policy(self) -> list[Place]:
        """Of each policy rank. On the CPU, ranks take the nodes in turn, this process's first."""
        return self._ranks(self.placement.policy)

    @property
    def critic(self) -> list[Place]:
        """Of each critic rank."""
        return self._ranks(self.placement.critic)

    @property
    def reference(self) -> list[Place]:
        """Of each copy of the reference."""
        return self._ranks(self.placement.reference)

    @property
    def engines(self) -> list[Place]:
        """Of each engine. On the CPU, engines take the nodes in turn, the last one first, and may move to another."""
        engines = self.placement.engines
        return [self._on_gpus(*gpus) if gpus else self._on_cpu(-1 - index, True) for index, gpus in enumerate(engines)]

    @property
    def num_nodes_of_pushes(self) -> int:
        """Nodes that a weight push involves: this process's, policy rank 0's and the engines'."""
        here = [node.id for node in self._nodes[:1]]
        return len({*here, *(place.node for place in [*self.policy[:1], *self.engines])})

    def check(self) -> None:
        """Check what only the reservation shows.

        Raises:
            ConfigError: An engine's GPUs are not on one node, which tensor parallelism needs.
        """
        for index, gpus in enumerate(self.placement.engines):
            if len({self._gpus[gpu].node for gpu in gpus}) > 1:
                raise ConfigError(
                    f"layout {self.placement.layout}: the {len(gpus)} GPUs of engine {index} are on several nodes; "
                    "change rollout.tensor_parallel_size, policy.num_ranks or rollout.num_engines so that they are not"
                )

    def _ranks(self, gpus: tuple[int | None, ...]) -> list[Place]:
        return [self._on_cpu(index, False) if gpu is None else self._on_gpus(gpu) for index, gpu in enumerate(gpus)]

    def _on_cpu(self, index: int, may_move: bool) -> Place:
        """Node `index`, starting again after the last one."""
        if not self._nodes:
            return Place(interface=self._interface)
        node = self._nodes[index % len(self._nodes)].id
        return Place(NodeAffinitySchedulingStrategy(node, soft=may_move), node, self._interface, may_move)

    def _on_gpus(self, *numbers: int) -> Place:
        gpus = [self._gpus[number] for number in numbers]
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=gpus[0].bundle)
        # Rounded down to what Ray counts, so that the shares of a GPU never exceed it.
        share = int(1e4 / max(self.placement.actors_per_gpu[number] for number in numbers)) / 1e4
        visible = ",".join(gpu.number for gpu in gpus) if len(gpus) > 1 else ""
        return Place(strategy, gpus[0].node, self._interface, False, share, visible)


@contextmanager
def reserve(
    layout: Literal["auto"] | Layout, demand: Demand, cluster: Cluster, interface: str | None = None
) -> Iterator[Places]:
    """Place a run on the nodes of a cluster, and hold its GPUs for the block.

    `interface` is that between nodes; see `Cluster.interface`.

    Raises:
        ConfigError: The layout does not fit on the GPUs of the cluster.
        StageTimeout: Ray did not hand them out within `RESERVE_SECONDS`.
    """
    placement = place(layout, demand, describe_machine(cluster))
    interface = cluster.interface(interface)
    if not placement.on_gpu:
        yield Places(placement, cluster.nodes, interface)
        return
    group = placement_group([{"GPU": 1}] * placement.num_gpus, strategy="PACK")
    try:
        gather([group.ready()], RESERVE_SECONDS, f"the run waits for Ray to reserve {placement.num_gpus} GPU(s)")
        gpus = _locate(group, placement.num_gpus, cluster.nodes)
        places = Places(placement, cluster.nodes, interface, group, gpus)
        places.check()
        yield places
    finally:
        remove_placement_group(group)


def has_gpu_stack() -> bool:
    """Whether the installed stack is that for GPUs: the CPU stack leaves a machine's GPUs alone."""
    return torch.version.cuda is not None


def describe_machine(cluster: Cluster) -> Machine:
    """What a run may use: the GPUs that Ray counts, which on this machine respects CUDA_VISIBLE_DEVICES."""
    if not has_gpu_stack():
        reason = "the CPU stack is installed, which uses no GPU (OPENR1_STACK=cuda bash scripts/setup.sh changes it)"
        return Machine(0, engines_on_cpu=True, description=reason)
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    where = "this machine" if cluster.is_own else f"the cluster of {len(cluster.nodes)} node(s)"
    return Machine(num_gpus, engines_on_cpu=False, description=f"{where} has {num_gpus} GPU(s)")


def _locate(group: PlacementGroup, num_gpus: int, nodes: tuple[Node, ...]) -> tuple[Gpu, ...]:
    """The reserved GPUs in the order of their nodes and numbers, in which Ray does not number its bundles."""

    def which() -> tuple[str, str]:
        return ray.get_runtime_context().get_node_id(), str(ray.get_gpu_ids()[0])

    probes = []
    for bundle in range(num_gpus):
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
        probes.append(ray.remote(which).options(num_cpus=0, num_gpus=1, scheduling_strategy=strategy).remote())
    found = gather(probes, RESERVE_SECONDS, f"the run waits for {num_gpus} reserved GPU(s) to answer")
    gpus = [Gpu(bundle, *node_and_number) for bundle, node_and_number in enumerate(found)]
    order = {node.id: index for index, node in enumerate(nodes)}
    return tuple(sorted(gpus, key=lambda gpu: (order[gpu.node], *_order(gpu.number))))


def _order(number: str) -> tuple[int, str]:
    """Sorts 2 before 10; the unique ids that CUDA_VISIBLE_DEVICES may hold instead (GPU-..., MIG-...) as text."""
    return (int(number), "") if number.isdigit() else (0, number)
