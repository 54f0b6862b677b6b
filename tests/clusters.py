"""Real Ray clusters for tests: one node of `ray start` on this machine, or two that share nothing but a wire.

Two nodes on one machine are two network namespaces joined by a veth pair, each with a /dev/shm of its own: 127.0.0.1,
shared memory and interface names of one are nothing to the other, as on two machines. Needs root.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import ROOT

ADDRESSES = {"a": "10.78.0.1", "b": "10.78.0.2"}
PORT = 6379
"""In a network namespace nobody else can have it."""
SECONDS = 120
"""Longest wait for a node to start."""

START = 'mount -t tmpfs -o size=1g tmpfs /dev/shm && for hidden in $HIDDEN; do mount -t tmpfs tmpfs "$hidden"; done'


def why_not() -> str:
    """Why two nodes cannot be had here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [tool for tool in ("ip", "unshare", "nsenter", "mount") if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not installed"
    name = f"openr1-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces are not allowed: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


def write_token(folder: Path) -> dict[str, str]:
    """A new token, and the variables that make Ray use it."""
    path = folder / "token"
    path.write_text(secrets.token_hex(32))
    path.chmod(0o600)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


@dataclass
class RayNode:
    """A running `ray start --block`, the leader of its own process group."""

    process: "subprocess.Popen[bytes]"
    log: Path
    temporary: Path

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until its output has a pattern."""
        deadline = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.log.read_text())) is None:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return found

    def stop(self) -> None:
        """End it and what it started, in order if it likes."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)


def start_node(prefix: Sequence[str], flags: Sequence[str], folder: Path, variables: Mapping[str, str]) -> RayNode:
    """Run `ray start` with its log in a folder, after the words of `prefix`."""
    # Short, because Ray's sockets are in it.
    temporary = Path(tempfile.mkdtemp(prefix="o1-ray-"))
    log = folder / f"{temporary.name}.log"
    common = ["--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    where = [f"--temp-dir={temporary}"] if "--head" in flags else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, str(ROOT / ".venv/bin/ray"), "start", *flags, *common, *where],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"RAY_worker_niceness": "0"} | dict(variables),
            start_new_session=True,
        )
    return RayNode(process, log, temporary)


@contextmanager
def ray_head(folder: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """A cluster of one node without GPUs on this machine; yields its address."""
    node = start_node([], ["--head", "--port=0", "--num-gpus=0", "--include-dashboard=false"], folder, variables)
    try:
        yield node.wait_for(r"--address='([\d.:]+)'")[1]
    finally:
        node.stop()


class TwoNodes:
    """Two nodes, `a` with the head and `b`; neither has a GPU."""

    address = f"{ADDRESSES['a']}:{PORT}"

    def __init__(self, folder: Path, hidden_from_b: Sequence[Path]) -> None:
        """Make the namespaces; `hidden_from_b` are folders of this machine that are empty on `b`."""
        self.variables = write_token(folder)
        self._folder = folder
        self.hidden_from_b = tuple(hidden_from_b)
        self._nodes: dict[str, RayNode] = {}
        # Interface names differ from node to node, as on real machines.
        wire = f"type veth peer name {self._interface('b')} netns {self._namespace('b')}"
        _ip(*(f"netns add {self._namespace(name)}" for name in ADDRESSES))
        _ip(f"link add {self._interface('a')} netns {self._namespace('a')} {wire}")
        for name, address in ADDRESSES.items():
            _ip(f"-n {self._namespace(name)} addr add {address}/24 dev {self._interface(name)}")
            _ip(*(f"-n {self._namespace(name)} link set {link} up" for link in ("lo", self._interface(name))))

    def start(self, name: str) -> None:
        """Start Ray on a node, `a` first; returns once it has joined."""
        head = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        role = head if name == "a" else [f"--address={self.address}"]
        hidden = " ".join(map(str, self.hidden_from_b)) if name == "b" else ""
        words = [f"--node-ip-address={ADDRESSES[name]}", "--num-gpus=0", *role]
        variables = self.variables | {"HIDDEN": hidden}
        self._nodes[name] = start_node(self.bare(name), words, self._folder, variables)
        try:
            self._nodes[name].wait_for("Ray runtime started")
        except AssertionError:
            # Ray gives itself a minute to start, which is too little on a crowded machine: once more.
            self.kill(name)
            self._nodes[name] = start_node(self.bare(name), words, self._folder, variables)
            self._nodes[name].wait_for("Ray runtime started")

    def bare(self, name: str) -> list[str]:
        """Words to put before a command that is to run on a node without Ray."""
        return [
            "ip",
            "netns",
            "exec",
            self._namespace(name),
            "unshare",
            "-m",
            "bash",
            "-c",
            f'{START} && exec "$0" "$@"',
        ]

    def popen(self, words: Sequence[str], variables: Mapping[str, str]) -> "subprocess.Popen[str]":
        """Run a command on node `a`."""
        return subprocess.Popen(
            ["nsenter", "-t", str(self._nodes["a"].process.pid), "-n", "-m", "env", "-C", str(ROOT), *words],
            env=os.environ | self.variables | dict(variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        """Kill a node as a loss of power would: all of its processes at once."""
        for pid in self.pids(name):
            os.kill(pid, signal.SIGKILL)
        self._nodes[name].process.wait()

    def close(self) -> None:
        """End both nodes, and all that still runs there."""
        for name in ADDRESSES:
            for pid in self.pids(name):
                os.kill(pid, signal.SIGKILL)
        for node in self._nodes.values():
            node.process.wait()
            shutil.rmtree(node.temporary, ignore_errors=True)
        for name in ADDRESSES:
            _ip(f"netns del {self._namespace(name)}")

    def pids(self, name: str) -> list[int]:
        """Processes on a node."""
        found = subprocess.run(
            ["ip", "netns", "pids", self._namespace(name)], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in found.stdout.split()]

    @staticmethod
    def _namespace(name: str) -> str:
        return f"openr1-{os.getpid()}-{name}"

    @staticmethod
    def _interface(name: str) -> str:
        return f"o1wire{name}"


@contextmanager
def two_nodes(folder: Path, hidden_from_b: Sequence[Path] = (), *, with_ray: bool = True) -> Iterator[TwoNodes]:
    """Two nodes for the block; the test is skipped where they cannot be had, and fails if they are required."""
    if reason := why_not():
        assert "OPENR1_REQUIRE_TWO_NODES" not in os.environ, reason
        pytest.skip(reason)
    nodes = TwoNodes(folder, hidden_from_b)
    try:
        for name in ADDRESSES if with_ray else ():
            nodes.start(name)
        yield nodes
    finally:
        nodes.close()


def _ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)
