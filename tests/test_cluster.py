"""What is checked before actors are started."""

import os
import time
from pathlib import Path

import pytest

from openr1.cluster import STALE_LOCK_SECONDS, check_build_locks, gpus_needed
from openr1.errors import MissingError
from tests.fakes import make_config


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


@pytest.mark.parametrize(("replay_from", "needed"), [(None, 7), ("rollout", 3), ("reward", 3), ("advantage", 2)])
def test_gpus_of_a_replay(tmp_path: Path, replay_from: str | None, needed: int) -> None:
    """Catches a replay that asks for GPUs of engines, or of a reference, which it does not start.

    Two policy ranks, four engines, one reference.
    """
    debug = {} if replay_from is None else {"replay": "records", "replay_from": replay_from}
    sections = {"policy": {"num_ranks": 2}, "rollout": {"num_engines": 4, "rollout_batch_size": 4}}
    assert gpus_needed(make_config(tmp_path, debug=debug, **sections)) == needed
