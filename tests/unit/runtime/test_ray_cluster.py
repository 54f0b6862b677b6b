"""The folders that a run leaves on its machine."""

import signal
import subprocess
import sys
from pathlib import Path

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
