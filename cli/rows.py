"""JSON lines as commands read them: every fault is one line that says where."""

import json
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, one a line; row i stands in line i + 1.

    Raises:
        ConfigError: The file cannot be read, or a line is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}:{number}: not a JSON object")
        rows.append(row)
    return rows
