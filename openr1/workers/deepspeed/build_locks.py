"""Where DeepSpeed's compiled ops are, and a check against waiting for a build that was killed."""

import os
import sys
import time
from pathlib import Path

from openr1.errors import MissingError

STALE_LOCK_SECONDS = 120


def extensions_folder() -> Path:
    """Folder of the ops that `make setup` compiled."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path(sys.prefix) / "torch_extensions"))


def check_build_locks(extensions: Path) -> None:
    """Refuse to start if loading an op would wait for a build that no process is making.

    Raises:
        MissingError: A lock file is left over from a killed build. PyTorch waits for it without a limit. Locks younger
            than STALE_LOCK_SECONDS may belong to a process that is loading the op right now.
    """
    for lock in sorted(extensions.glob("*/lock")):
        age = time.time() - lock.stat().st_mtime
        if age > STALE_LOCK_SECONDS:
            raise MissingError(
                f"{lock}: a build of a DeepSpeed op has been locked for {age:.0f} s, most likely by a build that was "
                "killed; remove the file and run `make setup` again"
            )
