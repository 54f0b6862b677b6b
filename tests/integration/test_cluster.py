"""Runs that join a Ray cluster by RAY_ADDRESS, or cannot."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from openr1.errors import ConfigError
from openr1.runtime import joining, node_checks
from openr1.runtime.joining import cluster_address
from openr1.runtime.node_checks import NodeReport
from openr1.runtime.nodes import Node
from tests.clusters import ray_head, write_token
from tests.integration.test_resume import BASE_MODEL, SETTINGS
from tests.running import ROOT, read_jsonl, write_config


def train(config: Path, variables: Mapping[str, str], *flags: str) -> "subprocess.CompletedProcess[str]":
    """`python -m cli train` to its end."""
    command = [sys.executable, "-m", "cli", "train", "--config", str(config), *flags]
    environment = os.environ | dict(variables)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def config(countdown_files: Path, tmp_path: Path) -> Path:
    """One step."""
    return write_config(tmp_path / "config.yaml", BASE_MODEL, countdown_files, **SETTINGS, num_steps=1)


@pytest.mark.timeout(600)
def test_a_run_joins_a_cluster_and_leaves_it_as_it_was(config: Path, tmp_path: Path) -> None:
    """Catches a run that starts a cluster of its own although RAY_ADDRESS names one, that passes settings which only
    a new one takes, that ends the cluster with itself, and half a minute of C++ warnings in place of what to do about
    a missing token.
    """
    token = write_token(tmp_path)
    with ray_head(tmp_path, token) as address:
        refused = train(config, {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"})
        assert refused.returncode == 3, refused.stderr
        assert refused.stderr.count("\n") == 1
        assert f"Ray cluster {address}: it wants a token, and RAY_AUTH_MODE is not set to token here" in refused.stderr
        assert not (tmp_path / "runs").exists()
        for resume in ([], ["--resume", "--num_steps", "2"]):
            joined = train(config, token | {"RAY_ADDRESS": address}, *resume)
            assert joined.returncode == 0, joined.stdout + joined.stderr
            assert f"joining the Ray cluster at {address}" in joined.stdout
        assert len(read_jsonl(tmp_path / "runs/small/metrics.jsonl")) == 2
    assert not list((tmp_path / "runs").glob(".nodes-*"))


@pytest.mark.timeout(300)
def test_a_dead_address_is_given_up(config: Path, tmp_path: Path) -> None:
    """Catches a driver that tries for minutes to reach a cluster that is gone, and cannot be stopped meanwhile."""
    with socket.socket() as bound:
        # Bound, so that nobody else listens there, and not listening.
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        started = time.monotonic()
        result = train(config, {"RAY_ADDRESS": address})
        seconds = time.monotonic() - started
    assert result.returncode == 3, result.stderr
    assert f"Ray cluster {address}: nothing answered within {joining.JOIN_SECONDS:g} s" in result.stderr
    assert result.stderr.count("\n") == 1
    assert seconds > joining.JOIN_SECONDS
    assert joining.JOIN_SECONDS <= 25
    assert not (tmp_path / "runs").exists()


@pytest.mark.timeout(300)
def test_a_signal_ends_the_attempt_to_join(config: Path) -> None:
    """Catches a driver that waits for the end of a connection that it does not end."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        command = [sys.executable, "-m", "cli", "train", "--config", str(config)]
        environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{bound.getsockname()[1]}", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "joining the Ray cluster" in process.stdout.readline()
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait(joining.JOIN_SECONDS + 60)
    assert code == 143
    assert time.monotonic() - start < joining.JOIN_SECONDS / 2


def test_which_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a config that RAY_ADDRESS overrules, an empty variable taken for an address, and a Ray client, with which
    no actor could be placed.
    """
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(None) == "10.0.0.1:6379"
    assert cluster_address("10.0.0.2:6379") == "10.0.0.2:6379"
    assert cluster_address("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert cluster_address(None) is None
    with pytest.raises(ConfigError, match="start the run on a node of the cluster"):
        cluster_address("ray://10.0.0.1:10001")


def test_what_is_wrong_with_a_node(tmp_path: Path) -> None:
    """Catches a node with another version or without a package that passes, a folder of the same name that is not
    shared, and a path that only this machine has.
    """
    here = {"Python": "3.11.7", "torch": "2.13.0"}
    node, folder = Node("id", "10.0.0.2"), tmp_path / "runs/.nodes-x"
    folder.mkdir(parents=True)

    def problems(report: NodeReport) -> list[str]:
        return node_checks._problems(report, here, folder, node)

    not_shared = f"{tmp_path}/runs is not the folder of this node; set run.output_dir to one that all share"
    assert problems(NodeReport(here, (), ".nodes-x", None)) == [not_shared]  # read, and nothing came back
    (folder / "id").touch()
    assert problems(NodeReport(here, (), ".nodes-x", None)) == []
    assert problems(NodeReport(here, (), None, None)) == [not_shared]
    assert problems(NodeReport(here, (), ".nodes-y", None)) == [not_shared]
    assert problems(
        NodeReport({"Python": "3.12.1", "vllm": "0.32.0"}, (Path("/models/m"),), ".nodes-x", "no eth7")
    ) == [
        "Python is 3.12.1 there and 3.11.7 here; install the same",
        "torch is missing there and 2.13.0 here; install the same",
        "vllm is 0.32.0 there and missing here; install the same",
        "/models/m does not exist there; share or copy it",
        "no eth7",
    ]
