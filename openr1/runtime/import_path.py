"""Import paths in the configuration (`package.module:name` or `file.py:name`): the extension points of openr1.

The resolver is shared with the reward server.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError
from reward_server.import_path import ImportPathError, import_object


def absolute(path: str) -> str:
    """Make an import path independent of the working directory: file paths become absolute, modules are unchanged."""
    location, colon, name = path.rpartition(":")
    return f"{Path(location).resolve()}{colon}{name}" if location.endswith(".py") else path


@cache
def import_function(path: str) -> Callable[..., Any]:
    """Import the function or class at `package.module:name` or `file.py:name`.

    Raises:
        ConfigError: It cannot be imported, or it is not callable.
    """
    try:
        found = import_object(path, Path.cwd())
    except ImportPathError as error:
        raise ConfigError(str(error)) from error
    if not callable(found):
        raise ConfigError(f"{path} is a {type(found).__name__}; it must be a function or a class")
    return found
