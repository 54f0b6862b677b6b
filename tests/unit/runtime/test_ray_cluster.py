"""A Ray of the run's own: the folders that it leaves on its machine, and who can connect to it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import ray

from openr1.errors import MissingError
from openr1.runtime import ray_cluster
from openr1.runtime.nodes import connected_cluster
from openr1.runtime.ray_cluster import LONGEST_TMPDIR, folder_for_ray, keep_token_private, own_folder, start_actor
from tests.listening import Listeners
from tests.running import ROOT


class Idle:
    """An actor that does nothing."""

    def __init__(self, settings: object) -> None:
        """Ignore the settings."""

    def ready(self) -> bool:
        """Answers once it has started."""
        return True


def test_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """Catches shared memory that fills up with the weights of killed runs, a living run that loses its folder, and one
    that other users can open.
    """
    code = "import sys, time; from pathlib import Path; from openr1.runtime.ray_cluster import own_folder\n"
    code += "with own_folder(Path(sys.argv[1]), 'run-') as folder: print(folder, flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    killed, living = (subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2))
    assert killed.stdout is not None
    assert living.stdout is not None
    left, held = Path(killed.stdout.readline().strip()), Path(living.stdout.readline().strip())
    (left / "push.safetensors").write_bytes(b"weights")
    other = tmp_path / "run-of-someone-else"
    other.mkdir()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert left.exists()
    with own_folder(tmp_path, "run-") as own:
        assert sorted(tmp_path.iterdir()) == sorted([own, held, other])
        assert own.stat().st_mode & 0o777 == 0o700
    living.kill()
    living.wait()
    with own_folder(tmp_path, "run-"):
        pass
    assert list(tmp_path.iterdir()) == [other]


def test_too_little_shared_memory_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a container with 64 MiB of shared memory, in which a run starts and dies at its first push."""
    monkeypatch.setattr(ray_cluster, "SHARED_MEMORY", tmp_path)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(MissingError, match=r"GiB free, and a push of the weights needs 1024.00: .*--shm-size"):
        ray_cluster.shared_memory_folder(2**40)
    assert list(tmp_path.iterdir()) == []
    assert free < 2**40
    with ray_cluster.shared_memory_folder(1) as folder:
        assert folder.parent == tmp_path


@pytest.mark.parametrize(
    ("tmpdir", "expected"),
    [("/tmp", "/tmp"), ("/dev/shm", "/dev/shm"), ("LONG", "/tmp")],
)
def test_long_temporary_folders(tmpdir: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches Unix sockets whose paths are too long, which is a traceback where a cluster sets a TMPDIR of its own."""
    long = tmp_path / "slurm_job_1234567"
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long) if tmpdir == "LONG" else tmpdir)
    assert folder_for_ray() == Path(expected)


def test_the_longest_folder_holds_a_socket() -> None:
    """Catches a bound that the real names of Ray's sockets exceed, for the longest process ids."""
    name = "/openr1-ray-4194304-abcd/session_2026-11-29_22-47-29_123456_4194304/sockets/plasma_store"
    assert LONGEST_TMPDIR + len(name) <= 107


def test_the_cluster_of_a_run_is_for_this_machine_alone(ray_cluster: None) -> None:
    """Catches a Ray that listens on all interfaces, which is its default, and the address of a node that shows it."""
    listeners = Listeners()
    actor = start_actor(Idle, 1, {"num_cpus": 0, "num_gpus": 0}, {}, None)
    assert ray.get(actor.ready.remote(), timeout=120)
    here = psutil.Process()
    listeners.look([here, *here.children(recursive=True)])
    assert {"gcs_server", "raylet"} <= set(listeners.seen.values())
    assert listeners.exposed == []
    assert [node.address for node in connected_cluster(is_own=True).nodes] == ["127.0.0.1"]


FULL_STORE = """
import ray
from openr1.runtime.ray_cluster import running_ray
with running_ray():
    kept = [ray.put(b"x" * 60 * 2**20) for _ in range(4)]
"""


@pytest.mark.timeout(180)
def test_a_full_object_store_and_no_disk_to_move_it_to() -> None:
    """Catches Ray's exception, which no code of ours expects, at a call that puts its arguments into a full store.

    Real: a store of 80 MiB, beside a disk that Ray takes for full, gets four times 60.
    """
    settings = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(80 * 2**20), "RAY_local_fs_capacity_threshold": "1e-6"}
    command = [sys.executable, "-c", FULL_STORE]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=150)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("openr1.errors.TrainingError: Ray: Local disk is full The object cannot be created"), last


def test_the_cluster_of_a_run_asks_for_a_token(ray_cluster: None) -> None:
    """Catches a cluster in which every user of this machine can run code as the user of the run."""
    code = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)"
    command = [sys.executable, "-c", code, ray.get_runtime_context().gcs_address]
    # Ray would replace 127.0.0.1 by an address at which nobody listens.
    environment = os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

    def connect(mode: str) -> "subprocess.CompletedProcess[str]":
        variables = environment | {"RAY_AUTH_MODE": mode}
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240, check=False)

    known, stranger = connect("token"), connect("disabled")
    assert known.returncode == 0, known.stderr
    assert stranger.returncode != 0
    assert re.search("InvalidAuthToken|AuthenticationError", stranger.stderr), stranger.stderr


@pytest.mark.parametrize("there", [None, "", "0123456789abcdef"])
def test_the_token_is_for_its_owner(there: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a token that other users of the machine can read, which is how Ray writes it, and one that is lost."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / ".ray/auth_token"
    if there is not None:
        path.parent.mkdir()
        path.write_text(there)
        path.chmod(0o644)
    keep_token_private()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == (there or "")


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN_PATH", "/a/token")])
def test_a_token_of_ones_own(name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file that is left in the home folder of a user who keeps the token elsewhere, or uses none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    keep_token_private()
    assert list(tmp_path.iterdir()) == []
