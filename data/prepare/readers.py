"""Read rows from .jsonl, .json and .parquet files with their locations, and handle rows that cannot be used."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError, MissingError

SUFFIXES = (".jsonl", ".json", ".parquet")
PARQUET_BATCH_ROWS = 10_000
"""How many rows of a Parquet file are held in memory as Python objects at a time."""


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
        read = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet}[path.suffix]
        for number, value in read(path):
            location = f"{path}:{number}"
            if isinstance(value, dict):
                yield location, value
            elif isinstance(value, UnicodeDecodeError):
                bad_rows.add(BadRowError(location, "not UTF-8", f"not UTF-8 at byte {value.start}"))
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
        return json.loads(text.decode("utf-8"))
    except ValueError as error:
        return error


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    value = _decode(path.read_bytes())
    if isinstance(value, ValueError):
        raise ConfigError(f"{path}: not JSON in UTF-8: {value}")
    if not isinstance(value, list):
        raise ConfigError(
            f"{path}: expected a list of objects, found {type(value).__name__}; use the suffix .jsonl for JSON Lines"
        )
    yield from enumerate(value, 1)


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches(PARQUET_BATCH_ROWS):
                for row in _batch_rows(batch):
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path}: not a complete Parquet file: {str(error).splitlines()[0]}") from error


def _batch_rows(batch: Any) -> list[Any]:
    """Return rows as dicts; a row whose text is not UTF-8 is replaced by its decoding error."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_single_row(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _single_row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return error
