"""What an actor's process does before it loads anything heavy."""

import os
import sys
from pathlib import Path


def log_to(path: Path) -> None:
    """Send all further output of this process, of its C++ libraries and children too, to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
