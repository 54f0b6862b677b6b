"""JSON lines as commands read them: every fault is one line that says where."""

import json
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a file, one a line, each with its place (`file:line`); blank lines are left out.

    Raises:
        ConfigError: The file cannot be read, or a line is no JSON object.
    """
    try:
        # Not splitlines: JSON may hold other line breaks than the one that ends a row.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}:{number}: not a JSON object")
        rows.append((f"{path}:{number}", row))
    return rows
