"""How fast bytes get from this node of a Ray cluster to another one: Ray's object store, and a gloo broadcast.

    RAY_ADDRESS=HOST:6379 python -m benchmarks.between_nodes [--mb 269] [--rounds 7] [--output FILE]

Both carry tensors as a weight push would: out of and into the memory of processes, one on each node. With the object
store the sender puts the tensor and the receiver gets it and copies it into place; with gloo both have it in place. The
ways alternate; the first round of each does not count.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.machine import spread, write_result
from openr1.errors import MissingError
from openr1.runtime.joining import cluster_address, joined_ray
from openr1.runtime.network import use_interface
from openr1.runtime.nodes import Node
from openr1.runtime.ray_calls import gather

TIMEOUT_SECONDS = 120.0


class End:
    """One end of the wire, with the tensor in its memory."""

    def __init__(self, rank: int, num_bytes: int) -> None:
        self._rank = rank
        self._tensor = torch.full((num_bytes,), 1 - rank, dtype=torch.uint8)
        self._address = use_interface(None)
        self._store: dist.TCPStore | None = None

    def open_store(self) -> tuple[str, int]:
        """Rank 0: where rank 1 joins."""
        self._store = dist.TCPStore(self._address, 0, 2, is_master=True, wait_for_workers=False)
        return self._address, self._store.port

    def join(self, store_at: tuple[str, int]) -> None:
        """Form the group."""
        store = self._store or dist.TCPStore(*store_at, 2, is_master=False)
        dist.init_process_group("gloo", None, None, 2, self._rank, store)

    def broadcast(self) -> None:
        """From rank 0 to rank 1."""
        dist.broadcast(self._tensor, 0)

    def put(self) -> list[Any]:
        """The tensor in the object store, as a reference that is not resolved on its way to the driver."""
        return [ray.put(self._tensor.numpy())]

    def get(self, reference: list[Any]) -> None:
        """Fetch and copy into place."""
        self._tensor.copy_(torch.from_numpy(ray.get(reference[0])))

    def clear(self) -> int:
        """The sum of the tensor's first bytes, which is theirs again afterwards."""
        total = int(self._tensor[:1000].sum())
        self._tensor.fill_(1 - self._rank)
        return total


def measure(nodes: tuple[Node, ...], num_bytes: int, rounds: int) -> dict[str, Any]:
    """Seconds of both ways."""
    if len(nodes) < 2:
        raise MissingError("the cluster has one node; this measures the way between two")
    ends = []
    for rank, node in enumerate(nodes[:2]):
        strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
        ends.append(ray.remote(End).options(num_cpus=0, scheduling_strategy=strategy).remote(rank, num_bytes))
    sender, receiver = ends
    store_at = _wait([sender.open_store.remote()])[0]
    _wait([end.join.remote(store_at) for end in ends])
    seconds: dict[str, list[float]] = {"object_store": [], "gloo": []}
    for _ in range(rounds + 1):
        for way, values in seconds.items():
            start = time.monotonic()
            if way == "gloo":
                _wait([end.broadcast.remote() for end in ends])
            else:
                _wait([receiver.get.remote(_wait([sender.put.remote()])[0])])
            values.append(time.monotonic() - start)
            assert _wait([receiver.clear.remote()]) == [1000], "what arrived is not what was sent"
    counted = {way: values[1:] for way, values in seconds.items()}
    ratios = [store / gloo for store, gloo in zip(counted["object_store"], counted["gloo"], strict=True)]
    rates = {way: spread([num_bytes / 1e9 / value for value in values]) for way, values in counted.items()}
    return {"bytes": num_bytes, "gb_per_second": rates, "store_over_gloo_seconds": spread(ratios), "rounds": rounds}


def _wait(calls: list[Any]) -> list[Any]:
    return gather(calls, TIMEOUT_SECONDS, "the benchmark waits for its two ends")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mb", type=int, default=269, help="megabytes of a transfer")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    address = cluster_address(None)
    if address is None:
        raise MissingError("RAY_ADDRESS is not set: it names the cluster to measure")
    with joined_ray(address) as cluster:
        write_result(args.output, measure(cluster.nodes, args.mb * 10**6, args.rounds))


if __name__ == "__main__":
    main()
