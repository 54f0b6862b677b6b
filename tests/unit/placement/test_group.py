"""Placements on a real Ray whose GPUs are faked by number; actors are recorders of where they run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from openr1.actors import engines, workers
from openr1.actors.rl import Actors, train_demand
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError
from openr1.placement import group as placement_group
from openr1.placement.group import Gpu, Places, describe_machine, reserve
from openr1.placement.layouts import Demand, Machine, place
from openr1.runtime.nodes import Cluster, Node
from openr1.runtime.ray_cluster import running_ray
from tests.recorders import Recorder
from tests.running import ROOT

DEMO = ROOT / "scripts/configs/grpo_countdown_tiny.yaml"


@pytest.fixture(autouse=True)
def faked_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PyTorch for GPUs, as far as placement asks, and recorders in place of actors."""
    monkeypatch.setattr(placement_group, "has_gpu_stack", lambda: True)
    monkeypatch.setattr(engines, "EngineActor", Recorder)
    for name in ("TrainWorker", "ReferenceWorker"):
        monkeypatch.setattr(workers, name, Recorder)


@pytest.fixture(scope="module")
def four_gpus() -> Iterator[Cluster]:
    """A Ray with four GPUs, for the last tests of this module: those before start their own."""
    with running_ray(4) as cluster:
        yield cluster


def start(config: TrainConfig, folder: Path, cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Place a run's actors; what each recorded, by name."""
    with reserve(config.placement.layout, train_demand(config), cluster) as places:
        Actors(config, places, folder, with_reference=True)
        return {path.stem: json.loads(path.read_text()) for path in sorted((config.run.folder / "logs").glob("*.json"))}


def demo(folder: Path, *overrides: str) -> TrainConfig:
    """The demo's config."""
    return load_config(TrainConfig, DEMO, ["--run.output_dir", str(folder), *overrides])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("num_gpus", [0, 1, 2, *(pytest.param(number, marks=pytest.mark.slow) for number in (4, 8))])
def test_the_demo_starts_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_gpus: int) -> None:
    """Catches a machine on which no config starts, a GPU that hosts two ranks or is left idle, ranks in an order other
    than that of the GPUs, and settings of the CPU on a GPU."""
    if num_gpus == 0:
        monkeypatch.setattr(placement_group, "has_gpu_stack", lambda: False)
    with running_ray(num_gpus) as cluster:
        records = start(demo(tmp_path), tmp_path, cluster)
    if num_gpus == 0:
        assert records.keys() == {"engine_0", "policy_0", "reference_0"}
        assert all(record["gpus"] == record["granted"] == [] for record in records.values())
        assert {record["accelerator"] for name, record in records.items() if name != "engine_0"} == {"cpu"}
        return
    for role in ("engine", "policy", "reference"):
        found = [records[f"{role}_{index}"]["gpus"] for index in range(num_gpus)]
        assert found == [[str(gpu)] for gpu in range(num_gpus)], role
    assert len(records) == 3 * num_gpus
    assert all(record["on_gpu"] and record["accelerator"] is None for record in records.values())
    assert records["policy_0"]["alloc_conf"] == "expandable_segments:True"


@pytest.mark.timeout(300)
def test_a_cluster_within_a_ray_job_assigns_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a variable of Ray jobs that leaves every rank on the first GPU; see
    findings/ray_job_unassigns_gpus_of_its_own_ray.sh.
    """
    monkeypatch.setenv("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "1")
    with running_ray(2) as cluster:
        records = start(demo(tmp_path), tmp_path, cluster)
    assert [records[f"policy_{rank}"]["gpus"] for rank in range(2)] == [["0"], ["1"]]


@pytest.mark.timeout(300)
def test_reservations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches GPUs that stay reserved after the block, a share that is not the whole GPU, and GPUs that are counted
    although the CPU stack is installed.
    """
    demand = Demand(ranks=1, engines=1, reference=True)
    with running_ray(2) as cluster:
        assert describe_machine(cluster).num_gpus == 2
        refusal = r"layout separate needs 3 GPUs .*; this machine has 2 GPU\(s\)\. .*: colocated \(1 pol"
        with pytest.raises(ConfigError, match=refusal), reserve("separate", demand, cluster):
            pass
        for _ in range(2):
            with reserve("colocated", Demand(ranks=2, engines=0), cluster) as places:
                assert [place.share for place in places.policy] == [1.0, 1.0]
        monkeypatch.setattr(placement_group, "has_gpu_stack", lambda: False)
        with reserve("auto", demand, cluster) as places:
            assert not places.placement.on_gpu
        refusal = r"the CPU stack is installed.*OPENR1_STACK=cuda"
        with pytest.raises(ConfigError, match=refusal), reserve("colocated", demand, cluster):
            pass


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([("a", "10"), ("a", "2"), ("a", "0")], [Gpu(2, "a", "0"), Gpu(1, "a", "2"), Gpu(0, "a", "10")]),
        ([("a", "GPU-9c"), ("a", "GPU-1a")], [Gpu(1, "a", "GPU-1a"), Gpu(0, "a", "GPU-9c")]),
        ([("b", "0"), ("b", "1"), ("a", "1")], [Gpu(2, "a", "1"), Gpu(0, "b", "0"), Gpu(1, "b", "1")]),
    ],
)
def test_gpus_are_in_the_order_of_nodes_and_numbers(
    monkeypatch: pytest.MonkeyPatch, found: list[tuple[str, str]], expected: list[Gpu]
) -> None:
    """Catches ranks in the order of Ray's bundles, 10 before 2, unique ids, which are no numbers, and neighbouring
    ranks on different nodes.
    """
    monkeypatch.setattr(placement_group, "gather", lambda calls, seconds, waiting: found)
    monkeypatch.setattr(placement_group, "PlacementGroupSchedulingStrategy", lambda *group, **bundle: None)
    monkeypatch.setattr(placement_group.ray, "remote", lambda task: mock.MagicMock())
    nodes = (Node("a", "10.0.0.1"), Node("b", "10.0.0.2"))
    assert list(placement_group._locate(mock.Mock(), len(found), nodes)) == expected


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["--policy.num_ranks", "2", "--rollout.num_engines", "1"],
            {"policy_0": "0", "policy_1": "1", "reference_0": "2", "engine_0": "3"},
        ),
        (
            ["--placement.layout", "half", "--rollout.max_staleness", "1", "--rollout.tensor_parallel_size", "2"],
            {"policy_0": "0", "policy_1": "1", "reference_0": "0", "reference_1": "1", "engine_0": "2,3"},
        ),
        (
            ["--rollout.tensor_parallel_size", "2", "--policy.num_ranks", "2", "--model.lora", "{rank: 4}"],
            {"policy_0": "0", "policy_1": "1", "engine_0": "0,1", "engine_1": "2,3"},
        ),
    ],
    ids=["separate", "half", "colocated_lora"],
)
def test_layouts_on_four_gpus(
    four_gpus: Cluster, tmp_path: Path, overrides: list[str], expected: dict[str, str]
) -> None:
    """Catches an engine that sees one of its two GPUs, and a reference that LoRA does not need."""
    records = start(demo(tmp_path, *overrides), tmp_path, four_gpus)
    assert {name: ",".join(record["gpus"]) for name, record in records.items()} == expected


@pytest.mark.timeout(300)
def test_training_starts_in_the_memory_of_sleeping_engines(
    four_gpus: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches engines that are still awake when policy and reference load, engines that sleep although nobody asked,
    and a setting that has no effect and says nothing.
    """
    flags = ["--placement.layout", "colocated", "--policy.num_ranks", "1", "--rollout.num_engines", "4"]
    records = start(demo(tmp_path / "sleep", *flags, "--placement.sleep", "true"), tmp_path, four_gpus)
    awake = start(demo(tmp_path / "awake", *flags), tmp_path, four_gpus)
    names = [f"engine_{index}" for index in range(4)]
    assert [records[name]["asleep_with"] for name in names] == [names] * 4
    assert records.keys() == awake.keys() == {*names, "policy_0", "reference_0"}
    assert all("asleep_with" not in record for record in awake.values())
    assert "placement.sleep" not in capsys.readouterr().out
    monkeypatch.setattr(placement_group, "has_gpu_stack", lambda: False)
    plain = start(demo(tmp_path / "cpu", "--placement.sleep", "true"), tmp_path, four_gpus)
    assert all("asleep_with" not in record for record in plain.values())
    assert capsys.readouterr().out.count("placement.sleep has no effect on the CPU") == 1


@pytest.mark.timeout(300)
def test_the_cpu_stack_hides_all_gpus(four_gpus: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches actors on the CPU that see the GPUs of the machine: Ray leaves the variable unset for them."""
    monkeypatch.setattr(placement_group, "has_gpu_stack", lambda: False)
    records = start(demo(tmp_path), tmp_path, four_gpus)
    assert {name: record["gpus"] for name, record in records.items()} == {
        "policy_0": [],
        "reference_0": [],
        "engine_0": [],
    }


def test_an_engine_over_two_nodes_is_refused() -> None:
    """Catches tensor parallelism over a network, which would wait for GPUs that its processes do not see."""
    placement = place("separate", Demand(ranks=1, engines=1, gpus_per_engine=2), Machine(3))
    gpus = (Gpu(0, "a", "0"), Gpu(1, "a", "1"), Gpu(2, "b", "0"))
    with pytest.raises(ConfigError, match="the 2 GPUs of engine 0 are on several nodes"):
        Places(placement, gpus=gpus).check()
    Places(placement, gpus=(Gpu(0, "a", "0"), Gpu(1, "b", "0"), Gpu(2, "b", "1"))).check()


def test_nodes_take_turns_on_the_cpu() -> None:
    """Catches actors that all land on the driver's node, engines in the ranks' order, and ranks that Ray may move."""
    placement = place("cpu", Demand(ranks=3, engines=2, reference=True), Machine(0))
    ids = ["a" * 56, "b" * 56]
    places = Places(placement, tuple(Node(name, f"10.0.0.{number}") for number, name in enumerate(ids)), "eth0")
    assert [place.node[0] for place in places.policy] == ["a", "b", "a"]
    assert [place.node[0] for place in places.engines] == ["b", "a"]
    assert [place.node[0] for place in places.reference] == ["a"]
    assert {place.interface for place in [*places.policy, *places.engines]} == {"eth0"}
    assert [place.strategy.soft for place in [*places.policy[:1], *places.engines[:1]]] == [False, True]
    assert places.num_nodes_of_pushes == 2
    assert Places.on_cpu(Demand(ranks=1, engines=1)).num_nodes_of_pushes == 1
