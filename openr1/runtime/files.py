"""Files: read so that every fault is one line that says where, and written whole or not at all."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError, MissingError


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, one a line, each with its place (`file:line`); blank lines are left out.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: A line is no JSON object in UTF-8; the message begins with its place.
    """
    try:
        # Split as bytes: in text, a line would also end at separators that JSON may hold.
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror}; data/README.md tells how to make a dataset") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}:{number}", _to_object(line, f"{path}:{number}")


def _to_object(line: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: not UTF-8 at byte {error.start} of the line") from error
    except ValueError as error:
        raise ConfigError(f"{place}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: expected an object, found {type(value).__name__}")
    return value


def write_whole(path: Path, text: str) -> None:
    """Write beside the path, then rename: whoever reads it, at any time, finds the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_objects(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write JSON lines, whole or not at all; returns how many."""
    lines = [to_line(row) for row in rows]
    write_whole(path, "".join(lines))
    return len(lines)


def to_line(row: Mapping[str, object]) -> str:
    """An object as one line of JSON."""
    return json.dumps(row, ensure_ascii=False) + "\n"
