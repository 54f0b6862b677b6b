"""A run over two nodes that share nothing but a wire and a file system: see `clusters.TwoNodes`."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import TwoNodes, two_nodes
from tests.integration.test_resume import BASE_MODEL, SETTINGS, check_same_steps, wait_for
from tests.running import ROOT, read_jsonl, write_config

SECONDS = 600
"""Longest wait for a run."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """Two nodes for all tests of this module; a test that kills one starts it again."""
    with two_nodes(tmp_path_factory.mktemp("nodes"), [tmp_path_factory.mktemp("hidden")]) as both:
        yield both


def train(config: Path, name: str, *flags: str) -> list[str]:
    """The command of a run."""
    return [sys.executable, "-m", "cli", "train", "--config", str(config), "--run.name", name, *flags]


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and output of a run."""
    output, _ = process.communicate(timeout=SECONDS)
    return process.returncode, output


def kill_b_in_step(nodes: TwoNodes, process: "subprocess.Popen[str]", folder: Path, step: int) -> float:
    """Kill node b as soon as a step is on record; returns the time."""
    wait_for(folder / f"rollouts/step_{step:06d}.jsonl", lambda: process.poll() is None, SECONDS)
    nodes.kill("b")
    return time.monotonic()


@pytest.fixture(scope="module")
def config(countdown_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of one engine and two ranks."""
    folder = tmp_path_factory.mktemp("two_nodes")
    settings = SETTINGS | {"policy": {"num_ranks": 2, "timeout_seconds": 900}, "num_steps": 3}
    return write_config(folder / "config.yaml", BASE_MODEL, countdown_files, **settings)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_nodes_equal_one_machine(nodes: TwoNodes, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a rendezvous or a gloo interface on loopback, weights in the memory of one machine, and ranks or engines
    that all land on the driver's node: each makes the run fail or wait here.
    """
    runs = config.parent / "runs"
    code, output = end_of(nodes.popen(train(config, "two"), {"RAY_ADDRESS": nodes.address}))
    assert code == 0, output
    assert "2 node(s): 10.78.0.1, 10.78.0.2" in output
    assert "weights reach the engines by gloo" in output  # the engine is on b, as planned
    alone = subprocess.run(
        train(config, "one", "--cluster.address", "local"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr
    check_same_steps(runs / "one", runs / "two", 3)
    times = {}
    for name in ("one", "two"):
        rows = read_jsonl(runs / name / "metrics.jsonl")[1:]
        times[name] = {key: sum(row[f"time/{key}_seconds"] for row in rows) / len(rows) for key in ("step", "sync")}
    with capsys.disabled():
        print(f"\nseconds of a step and of its push, one machine against two nodes: {json.dumps(times)}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_loss_of_a_rank_ends_the_run_with_its_checkpoint(nodes: TwoNodes, config: Path) -> None:
    """Catches ranks that wait half an hour in a collective for one that is gone, and a checkpoint that is lost with its
    node.
    """
    runs = config.parent / "runs"
    process = nodes.popen(train(config, "lost", "--num_steps", "500"), {"RAY_ADDRESS": nodes.address})
    killed = kill_b_in_step(nodes, process, runs / "lost", 2)
    code, output = end_of(process)
    seconds = time.monotonic() - killed
    nodes.start("b")
    assert code == 4, output
    # Ray writes into the same output what it has to say about its lost raylet, before, between or after.
    assert 0 < output.find("continue with --resume") < output.rfind("policy rank 1: an actor died"), output
    assert seconds < 300, seconds  # a third of the deadline
    steps = len(read_jsonl(runs / "lost/metrics.jsonl"))
    resumed = train(config, "lost", "--cluster.address", "local", "--resume", "--num_steps", str(steps + 1))
    result = subprocess.run(resumed, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [row["step"] for row in read_jsonl(runs / "lost/metrics.jsonl")] == list(range(1, steps + 2))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_lost_engine_comes_back_on_another_node(nodes: TwoNodes, config: Path) -> None:
    """Catches a run that ends with an engine's node although its policy is whole, an engine that serves the weights it
    started with, and one that never comes back because it asks for the node that is gone.
    """
    runs = config.parent / "runs"
    flags = ["--policy.num_ranks", "1", "--num_steps", "6", "--rollout.verify_steps", "1"]
    process = nodes.popen(train(config, "moved", *flags), {"RAY_ADDRESS": nodes.address})
    kill_b_in_step(nodes, process, runs / "moved", 2)
    code, output = end_of(process)
    nodes.start("b")
    assert code == 0, output
    assert [row["step"] for row in read_jsonl(runs / "moved/metrics.jsonl")] == list(range(1, 7))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_folder_that_the_other_node_does_not_see(nodes: TwoNodes, config: Path) -> None:
    """Catches a run over a file system that is not shared, whose second node would write its checkpoints elsewhere."""
    hidden = nodes.hidden_from_b[0]
    flags = ["--run.output_dir", str(hidden), "--cluster.interface", "o1wirea"]
    code, output = end_of(nodes.popen(train(config, "hidden", *flags), {"RAY_ADDRESS": nodes.address}))
    assert code == 2, output
    shared = f"node 10.78.0.2: {hidden} is not the folder of this node; set run.output_dir to one that all share"
    there_is = "cluster.interface: there is no interface o1wirea with an IPv4 address; there is lo, o1wireb"
    assert output.splitlines()[-1] == f"train: {shared}; node 10.78.0.2: {there_is}", output
    assert not list(hidden.iterdir())
