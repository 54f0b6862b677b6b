"""What is checked before actors are started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from openr1.training.cluster import STALE_LOCK_SECONDS, check_build_locks, gpus_needed, own_folder

from openr1.errors import MissingError
from tests.fakes import make_config
from tests.running import ROOT


def test_stale_build_lock_is_named(tmp_path: Path) -> None:
    """Catches a run that waits for ever for a build which was killed; a lock that is in use must not stop it."""
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    check_build_locks(tmp_path)
    lock.touch()
    check_build_locks(tmp_path)
    long_ago = time.time() - STALE_LOCK_SECONDS - 60
    os.utime(lock, (long_ago, long_ago))
    with pytest.raises(MissingError, match=r"cpu_adam/lock.*make setup"):
        check_build_locks(tmp_path)


def test_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """Catches shared memory that fills up with the weights of killed runs, and a living run that loses its folder."""
    code = "import sys, time; from pathlib import Path; from openr1.training.cluster import own_folder\n"
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


@pytest.mark.parametrize(("replay_from", "needed"), [(None, 7), ("rollout", 3), ("reward", 3), ("advantage", 2)])
def test_gpus_of_a_replay(tmp_path: Path, replay_from: str | None, needed: int) -> None:
    """Catches a replay that asks for GPUs of engines, or of a reference, which it does not start.

    Two policy ranks, four engines, one reference.
    """
    debug = {} if replay_from is None else {"replay": "records", "replay_from": replay_from}
    sections = {"policy": {"num_ranks": 2}, "rollout": {"num_engines": 4, "rollout_batch_size": 4}}
    assert gpus_needed(make_config(tmp_path, debug=debug, **sections)) == needed
