"""Locks of op builds that were killed."""

import os
import time
from pathlib import Path

import pytest

from openr1.errors import MissingError
from openr1.workers.deepspeed.build_locks import STALE_LOCK_SECONDS, check_build_locks


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
