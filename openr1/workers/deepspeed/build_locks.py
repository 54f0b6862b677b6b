"""DeepSpeed's compiled ops: where they are, and a check for stale locks of builds that were killed."""

import os
import sys
import time
from pathlib import Path

from openr1.errors import MissingError

STALE_LOCK_SECONDS = 120


def extensions_folder() -> Path:
    """Folder of the ops that `make setup` compiles (PyTorch's TORCH_EXTENSIONS_DIR)."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path(sys.prefix) / "torch_extensions"))


def check_build_locks(extensions: Path) -> None:
    """Check that no op has a stale lock, for which PyTorch would wait forever.

    Locks younger than STALE_LOCK_SECONDS are accepted: they may belong to a process that is loading the op right now.

    Raises:
        MissingError: A lock file was left behind by a build that was killed.
    """
    for lock in sorted(extensions.glob("*/lock")):
        age = time.time() - lock.stat().st_mtime
        if age > STALE_LOCK_SECONDS:
            raise MissingError(
                f"{lock}: a DeepSpeed op has been locked for {age:.0f} s, most likely by a build that was killed; "
                "remove the file and run `make setup` again"
            )
