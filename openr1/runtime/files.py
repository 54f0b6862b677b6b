"""File I/O: JSON Lines with one-line errors that name the location, and atomic writes."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError, MissingError
from reward_server.printable import printable


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, each with its location (`file:line`). Blank lines are skipped.

    A name that ends in .gz is that of a file which gzip has compressed.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: A line is not a JSON object in UTF-8; the message begins with the location.
    """
    try:
        # Split as bytes: `str.splitlines` also breaks at U+2028 and the like, which JSON strings may contain.
        lines = _read(path).split(b"\n")
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise MissingError(f"{path}: not a complete gzip file: {error}") from error
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror}; see data/README.md for how to prepare a dataset") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}:{number}", _to_object(line, f"{path}:{number}")


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def _to_object(line: bytes, location: str) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{location}: not UTF-8 at byte {error.start} of the line") from error
    except HalfCharacter as error:
        raise ConfigError(f"{location}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{location}: not JSON: {error}") from error
    return as_object(value, location)


def as_object(value: object, location: str) -> dict[str, Any]:
    """The value, which must be a JSON object.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{location}: expected an object, found {type(value).__name__}")
    return value


class HalfCharacter(ValueError):
    """A text holds half of a surrogate pair, which is no character: it cannot be tokenized, written or sent."""


def parse_json(text: bytes) -> Any:
    """Parse JSON in UTF-8.

    Raises:
        HalfCharacter: An escape such as `\\ud83d` stands without its other half.
        ValueError: Not JSON, or (UnicodeDecodeError) not UTF-8.
    """
    value = json.loads(text.decode("utf-8"))
    if b"\\u" in text:  # Only escapes can bring in half a character: UTF-8 has none.
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise HalfCharacter(f"{half} is half of a surrogate pair, and no character; write both, or none") from error
    return value


def step_paths(folder: Path, suffix: str = "") -> list[tuple[int, Path]]:
    """Files or folders named step_NNNNNN + suffix, by step. Other names, such as a user's copies, are left alone."""
    found = []
    for path in folder.glob(f"step_*{suffix}"):
        number = path.name.removeprefix("step_").removesuffix(suffix)
        if number.isascii() and number.isdecimal() and number == f"{int(number):06d}":
            found.append((int(number), path))
    return sorted(found)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError in the block: of a file that is open, when its disk is full, there is none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically (temporary file, then rename): readers see either the old text or the new.

    Compressed if the name ends in .gz. What a full disk takes of it is removed.
    """
    content = text.encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(path.name + ".tmp")
    try:
        with named(path):
            # Without a time in it, equal rows make equal files.
            staging.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
            staging.replace(path)
    except OSError:
        staging.unlink(missing_ok=True)
        raise


def write_objects(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write a JSON Lines file atomically, compressed if the name ends in .gz; returns the number of rows."""
    lines = [to_line(row) for row in rows]
    write_whole(path, "".join(lines))
    return len(lines)


def to_line(row: Mapping[str, object]) -> str:
    """Serialize an object as one line of JSON, with the line break; safe to show in a terminal."""
    return printable(json.dumps(row, ensure_ascii=False)) + "\n"
