"""Helpers for child processes: the Python import path, and redirection of output to a log file."""

import os
import sys
from pathlib import Path

PYTHON_ROOT = str(Path(__file__).resolve().parents[2])
"""The folder that `openr1` is imported from. Child processes need it on their import path."""


def python_environment() -> dict[str, str]:
    """Copy of this process's environment with `PYTHON_ROOT` first on PYTHONPATH."""
    others = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": PYTHON_ROOT if not others else os.pathsep.join([PYTHON_ROOT, others])}


def log_to(path: Path) -> None:
    """Append all further output of this process to a file, including that of its C++ libraries and children."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
