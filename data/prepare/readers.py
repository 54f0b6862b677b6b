"""Read rows from .jsonl, .json and .parquet files with their locations, and handle rows that cannot be used."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openr1.data.files import SUFFIXES, read_json_list, read_parquet
from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import HalfCharacter, parse_json


class BadRowError(ConfigError):
    """A row that cannot be used."""

    def __init__(self, location: str, kind: str, detail: str) -> None:
        """Create the error.

        Args:
            location: `file:line` for .jsonl; `file:row` for .json and .parquet. Both count from 1.
            kind: Category of the error, used to count skipped rows.
            detail: What is wrong with this row; the message is `location: detail`.
        """
        super().__init__(f"{location}: {detail}")
        self.kind = kind


@dataclass
class BadRowHandler:
    """Policy for bad rows: raise at the first one or, with `skip`, drop them and count them by kind."""

    skip: bool
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, error: BadRowError) -> None:
        """Count a bad row if rows may be skipped.

        Raises:
            BadRowError: `error` itself, unless `skip` is set.
        """
        if not self.skip:
            raise error
        self.counts[error.kind] += 1


def read_file(path: Path, bad_rows: BadRowHandler) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the location and the columns of each row; blank lines are ignored.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: The file type is not supported, or the file as a whole cannot be parsed.
        BadRowError: A row is not a JSON object in UTF-8, and bad rows are not skipped.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: unsupported file type; expected {', '.join(SUFFIXES)}")
    try:
        read = {".jsonl": _read_jsonl, ".json": read_json_list, ".parquet": read_parquet}[path.suffix]
        for number, value in read(path):
            location = f"{path}:{number}"
            if isinstance(value, dict):
                yield location, value
            elif isinstance(value, UnicodeDecodeError):
                bad_rows.add(BadRowError(location, "not UTF-8", f"not UTF-8 at byte {value.start}"))
            elif isinstance(value, HalfCharacter):
                bad_rows.add(BadRowError(location, "half a character", str(value)))
            elif isinstance(value, ValueError):
                bad_rows.add(BadRowError(location, "not JSON", f"not JSON: {value}"))
            else:
                detail = f"expected an object, found {type(value).__name__}"
                bad_rows.add(BadRowError(location, "no object", detail))
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror or error}; docs/data.md lists the supported files") from error


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    # Split bytes, not text: str.splitlines also splits at Unicode separators that JSON strings may contain.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            yield number, _decode(line)


def _decode(text: bytes) -> Any:
    """Return the parsed JSON value, or the decoding error in its place."""
    try:
        return parse_json(text)
    except ValueError as error:
        return error
