"""Objects named by import path in the configuration: the extension points of openr1.

The resolver itself is shared with the reward server.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError
from reward_server.import_path import ImportPathError, import_object


def absolute(path: str) -> str:
    """An import path that means the same in every process: a file is made absolute, a module stays as it is."""
    location, colon, name = path.rpartition(":")
    return f"{Path(location).resolve()}{colon}{name}" if location.endswith(".py") else path


@cache
def import_function(path: str) -> Callable[..., Any]:
    """The function or class at `package.module:name` or `file.py:name`.

    Raises:
        ConfigError: It cannot be imported, or it cannot be called.
    """
    try:
        found = import_object(path, Path.cwd())
    except ImportPathError as error:
        raise ConfigError(str(error)) from error
    if not callable(found):
        raise ConfigError(f"{path} is a {type(found).__name__}; it must be a function or a class")
    return found
