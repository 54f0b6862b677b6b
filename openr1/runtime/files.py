"""File I/O: JSON Lines with one-line errors that name the location, and atomic writes."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError, MissingError


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, each with its location (`file:line`). Blank lines are skipped.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: A line is not a JSON object in UTF-8; the message begins with the location.
    """
    try:
        # Split as bytes: `str.splitlines` also breaks at U+2028 and the like, which JSON strings may contain.
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror}; see data/README.md for how to prepare a dataset") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}:{number}", _to_object(line, f"{path}:{number}")


def _to_object(line: bytes, location: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{location}: not UTF-8 at byte {error.start} of the line") from error
    except ValueError as error:
        raise ConfigError(f"{location}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{location}: expected an object, found {type(value).__name__}")
    return value


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically (temporary file, then rename): readers see either the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(path.name + ".tmp")
    staging.write_text(text, encoding="utf-8")
    staging.replace(path)


def write_objects(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write a JSON Lines file atomically; returns the number of rows."""
    lines = [to_line(row) for row in rows]
    write_whole(path, "".join(lines))
    return len(lines)


def to_line(row: Mapping[str, object]) -> str:
    """Serialize an object as one line of JSON, with the line break."""
    return json.dumps(row, ensure_ascii=False) + "\n"
