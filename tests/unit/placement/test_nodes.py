"""Placements on a Ray cluster of two nodes of this machine; actors are recorders of where they run."""

import json
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from openr1.actors.rl import Actors, train_demand
from openr1.placement import group as placement_group
from openr1.placement.group import describe_machine, reserve
from openr1.runtime.joining import joined_ray
from tests.unit.placement.test_group import demo, faked_stack

__all__ = ["faked_stack"]


@pytest.mark.timeout(300)
def test_a_head_node_without_gpus(tmp_path: Path) -> None:
    """Catches GPUs that are counted on the driver's node only, and actors without a GPU that Ray starts anywhere."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    try:
        cluster.add_node(num_cpus=1, num_gpus=2)
        with joined_ray(cluster.address) as joined:
            assert len(joined.nodes) == 2
            assert describe_machine(joined).description == "the cluster of 2 node(s) has 2 GPU(s)"
            with reserve("colocated", train_demand(demo(tmp_path)), joined) as places:
                assert {place.node for place in [*places.policy, *places.reference, *places.engines]} == {
                    joined.nodes[1].id
                }
                assert places.num_nodes_of_pushes == 2
                Actors(demo(tmp_path), places, tmp_path, with_reference=True)
                records = [path.stem for path in (tmp_path / "grpo_countdown_tiny/logs").glob("*.json")]
            assert len(records) == 6
    finally:
        cluster.shutdown()


@pytest.mark.timeout(300)
def test_engines_start_on_the_nodes_of_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches engines that Ray starts anywhere: then transport and messages speak of another node than theirs."""
    monkeypatch.setattr(placement_group, "has_gpu_stack", lambda: False)
    config = demo(tmp_path, "--rollout.num_engines", "8", "--placement.layout", "cpu")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        with joined_ray(cluster.address) as joined:
            with reserve("cpu", train_demand(config), joined) as places:
                planned = [place.node for place in places.engines]
                Actors(config, places, tmp_path, with_reference=True)
            logs = config.run.folder / "logs"
            found = [json.loads((logs / f"engine_{index}.json").read_text())["node"] for index in range(8)]
        assert len(set(planned)) == 2
        assert found == planned
    finally:
        cluster.shutdown()
