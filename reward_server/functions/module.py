"""The module that the user names: loaded in workers, and looked at in a process of its own before anything starts.

Standard library only: the checks of a config use it.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from reward_server.environment import harmless_environment
from reward_server.functions.signatures import RewardFunction
from reward_server.import_path import import_module

IMPORT_SECONDS = 120
"""Longest time that importing the module may take."""


class ModuleError(ValueError):
    """The module cannot be used. The message is one line: what is wrong, where, and what to do."""


@dataclass(frozen=True)
class RewardModule:
    """What is known of a module without importing it here."""

    path: str
    functions: tuple[RewardFunction, ...]
    version: str
    """Changes with the text of the module's file."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its functions."""
        return tuple(function.name for function in self.functions)


def absolute_module(path: str) -> str:
    """A path that means the same in every process: `file.py` becomes absolute, `package.module` stays as it is."""
    return str(Path(path).resolve()) if path.endswith(".py") else path


def load(path: str) -> ModuleType:
    """Import the module here, once per process. It may import other files of its folder.

    Raises:
        ImportPathError: It does not exist, or its code raised.
    """
    folder = str(Path(path).parent)
    if path.endswith(".py") and folder not in sys.path:
        sys.path.append(folder)
    return import_module(path)


@cache
def inspect_module(path: str) -> RewardModule:
    """Find the functions of a module, which a process of its own imports, in the environment that workers have.

    Args:
        path: `package.module`, or the absolute path of a file.

    Raises:
        ModuleError: The module cannot be imported, takes too long, or has no function that can be called.
    """
    folders = [folder or os.getcwd() for folder in sys.path]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "reward_server.functions.describe", path],
            env=harmless_environment() | {"PYTHONPATH": os.pathsep.join(folders)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModuleError(
            f"importing {path} takes more than {IMPORT_SECONDS} s: move what is slow into a function"
        ) from None
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["no output"]
    if done.returncode or not done.stdout.strip():
        raise ModuleError(lines[-1] if done.returncode == 2 else f"importing {path} ended its process: {lines[-1]}")
    described = json.loads(lines[-1])
    functions = tuple(RewardFunction(**one) for one in described["functions"])
    return RewardModule(path, functions, described["version"])
