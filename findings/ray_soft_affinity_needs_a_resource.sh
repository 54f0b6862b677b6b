#!/usr/bin/env bash
# NodeAffinitySchedulingStrategy(soft=True) is ignored for actors that ask for no resources (ray 2.60.0).
#
# Actors that only coordinate, or that share cores among themselves, are started with num_cpus=0. A soft affinity to a node
# is said to go elsewhere only if the node is dead or the actor could never run there.
# Guess before the run: on two idle nodes all actors are on the one that they name, with any number of CPUs, soft or not.
# Seen: with num_cpus=0 and soft=True about half of them are on the other node. With num_cpus=0.001, or with soft=False,
# all are where they should be.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ray==2.60.0
unset RAY_ADDRESS
"$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' || { tail -n 20 "$folder/log"; exit 1; }
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

COUNT = 16


class Actor:
    def node(self):
        return ray.get_runtime_context().get_node_id()


def number_there(num_cpus, soft):
    strategy = NodeAffinitySchedulingStrategy(other.node_id, soft=soft)
    options = {"num_cpus": num_cpus, "scheduling_strategy": strategy}
    actors = [ray.remote(Actor).options(**options).remote() for _ in range(COUNT)]
    nodes = ray.get([actor.node.remote() for actor in actors])
    for actor in actors:
        ray.kill(actor)
    return nodes.count(other.node_id)


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
other = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
found = {(num_cpus, soft): number_there(num_cpus, soft) for num_cpus in (0, 0.001) for soft in (True, False)}
print("ray", ray.__version__)
for (num_cpus, soft), count in found.items():
    print(f"num_cpus={num_cpus}, soft={soft}: {count} of {COUNT} on the named node")
ray.shutdown()
cluster.shutdown()
assert found.pop((0, True)) < COUNT
assert set(found.values()) == {COUNT}
PYTHON
