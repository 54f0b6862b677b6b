"""Files of rows: JSON Lines, JSON lists and Parquet, with the location of each row for messages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import HalfCharacter, as_object, parse_json, read_objects

SUFFIXES = (".jsonl", ".json", ".parquet")
PARQUET_BATCH_ROWS = 10_000
"""How many rows of a Parquet file are held in memory as Python objects at a time."""


def read_file(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a file, each with its location: `file:line` for .jsonl, else `file:row`, both from 1.

    Values keep the type that the file gives them; nothing is converted to dates or numbers.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: The suffix is not one of `SUFFIXES`, or a row is not an object in UTF-8.
    """
    if path.is_file() and path.suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}: unsupported file type; expected {', '.join(SUFFIXES)} (`data prepare` writes .jsonl)"
        )
    if path.suffix not in (".json", ".parquet"):
        yield from read_objects(path)
        return
    values = read_json_list if path.suffix == ".json" else read_parquet
    try:
        for number, value in values(path):
            location = f"{path}:{number}"
            if isinstance(value, UnicodeDecodeError):
                raise ConfigError(f"{location}: not UTF-8 at byte {value.start} of a text")
            yield location, as_object(value, location)
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror or error}; see data/README.md") from error


def read_json_list(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and the value of each entry of a JSON list.

    Raises:
        OSError: The file cannot be read.
        ConfigError: It is no JSON list in UTF-8.
    """
    try:
        value = parse_json(path.read_bytes())
    except HalfCharacter as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON in UTF-8: {error}") from error
    if not isinstance(value, list):
        raise ConfigError(
            f"{path}: expected a list of objects, found {type(value).__name__}; use the suffix .jsonl for JSON Lines"
        )
    yield from enumerate(value, 1)


def read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and the columns of each row; a row whose text is not UTF-8 as its UnicodeDecodeError.

    Raises:
        OSError: The file cannot be read.
        ConfigError: It is not a complete Parquet file.
    """
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
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_single_row(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _single_row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return error
