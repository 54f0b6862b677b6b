"""The nodes of the Ray cluster that this process is connected to."""

from dataclasses import dataclass

import ray

from openr1.runtime.network import LOOPBACK


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: Ray's id of it, and its IP address."""

    id: str
    address: str


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster.

    Attributes:
        nodes: Living nodes: this process's first, then by address.
        is_own: Whether this run started it, on this machine, for itself.
    """

    nodes: tuple[Node, ...]
    is_own: bool

    def interface(self, configured: str | None) -> str | None:
        """Interface for `use_interface`: loopback on a cluster of the run's own, else the configured one."""
        return LOOPBACK if self.is_own else configured


def connected_cluster(*, is_own: bool) -> Cluster:
    """The cluster that this process is connected to."""
    here = ray.get_runtime_context().get_node_id()
    nodes = [Node(node["NodeID"], node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]]
    return Cluster(tuple(sorted(nodes, key=lambda node: (node.id != here, node.address, node.id))), is_own)
