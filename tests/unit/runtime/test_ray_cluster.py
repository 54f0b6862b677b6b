"""The machine that a run finds, and the folders that it leaves there."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openr1.errors import ConfigError
from openr1.runtime.ray_cluster import check_machine, own_folder
from tests.running import ROOT


@pytest.mark.parametrize(("found", "needed", "on_gpu"), [(0, 4, False), (4, 4, True), (8, 1, True), (3, 4, None)])
def test_gpus_that_are_found(found: int, needed: int, on_gpu: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run on a few GPUs of too few, which waits for the missing ones for ever, and one refused on a CPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    if on_gpu is None:
        with pytest.raises(
            ConfigError, match=rf"needs {needed} GPUs .* this machine has {found}; .*CUDA_VISIBLE_DEVICES="
        ):
            check_machine(needed)
    else:
        assert check_machine(needed) is on_gpu


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
