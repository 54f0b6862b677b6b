"""What child processes need: the import path, and their output in a log file."""

import os
import sys
from pathlib import Path

PYTHON_ROOT = str(Path(__file__).resolve().parents[2])
"""The folder that `openr1` is imported from; child processes need it on their import path."""


def python_environment() -> dict[str, str]:
    """This process's environment, with this package's folder first on the import path of Python."""
    others = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": PYTHON_ROOT if not others else os.pathsep.join([PYTHON_ROOT, others])}


def log_to(path: Path) -> None:
    """Send all further output of this process, of its C++ libraries and children too, to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
