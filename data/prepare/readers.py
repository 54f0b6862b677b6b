"""Files of rows as others write them (.jsonl, .json, .parquet), each row with its place; what becomes of bad rows."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError, MissingError

SUFFIXES = (".jsonl", ".json", ".parquet")
BATCH = 10_000
"""Rows of a parquet file that are in memory as Python objects at a time."""


class BadRow(ConfigError):
    """A row that cannot be used; `kind` says why in a few words that many rows share."""

    def __init__(self, place: str, kind: str, detail: str) -> None:
        """`place` is file:line; of .json and .parquet, file:number of the row, from 1."""
        super().__init__(f"{place}: {detail}")
        self.kind = kind


@dataclass
class BadRows:
    """What becomes of bad rows: the first ends the command, or, with `skip`, all are left out and counted by kind."""

    skip: bool
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, fault: BadRow) -> None:
        """Count a row that is left out.

        Raises:
            BadRow: Rows are not to be left out.
        """
        if not self.skip:
            raise fault
        self.counts[fault.kind] += 1


def read_file(path: Path, bad: BadRows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a file, each with its place; blank lines are passed over.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: It is of no known kind; its list or table cannot be read at all; or a row is bad (`BadRow`).
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: unknown kind of file; give {', '.join(SUFFIXES)}")
    try:
        found = {".jsonl": _lines, ".json": _list, ".parquet": _table}[path.suffix](path)
        for number, value in found:
            place = f"{path}:{number}"
            if isinstance(value, dict):
                yield place, value
            elif isinstance(value, UnicodeDecodeError):
                bad.add(BadRow(place, "not UTF-8", f"not UTF-8 at byte {value.start}"))
            elif isinstance(value, ValueError):
                bad.add(BadRow(place, "not JSON", f"not JSON: {value}"))
            else:
                bad.add(BadRow(place, "no object", f"expected an object, found {type(value).__name__}"))
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror or error}; docs/data.md tells which files are read") from error


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    # Split as bytes: in text, a line would also end at separators that JSON may hold.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            yield number, _decode(line)


def _decode(text: bytes) -> Any:
    """The JSON value, or the error that it is not one."""
    try:
        return json.loads(text.decode("utf-8"))
    except ValueError as error:
        return error


def _list(path: Path) -> Iterator[tuple[int, Any]]:
    value = _decode(path.read_bytes())
    if isinstance(value, ValueError):
        raise ConfigError(f"{path}: not JSON in UTF-8: {value}")
    if not isinstance(value, list):
        raise ConfigError(f"{path}: expected a list of objects, found {type(value).__name__}; name other files .jsonl")
    yield from enumerate(value, 1)


def _table(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches(BATCH):
                for row in _batch_rows(batch):
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path}: not a whole parquet file: {str(error).splitlines()[0]}") from error


def _batch_rows(batch: Any) -> list[Any]:
    """Rows as dicts; where a text is not UTF-8, the error in place of its row."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_one_row(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _one_row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return error
