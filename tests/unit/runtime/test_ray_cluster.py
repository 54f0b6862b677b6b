"""The folders that a run leaves on its machine."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openr1.errors import MissingError
from openr1.runtime import ray_cluster
from openr1.runtime.ray_cluster import own_folder
from tests.running import ROOT


def test_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """Catches shared memory that fills up with the weights of killed runs, and a living run that loses its folder."""
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
