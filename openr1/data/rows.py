"""Rows of datasets, from files or the hub, with openr1's columns (data/README.md)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openr1.data.columns import RowSchema, to_row
from openr1.data.files import SUFFIXES, read_file
from openr1.data.hub_datasets import HubSplit, fetch, is_repository, parse_hub_name
from openr1.errors import ConfigError, MissingError

PROMPTS = RowSchema()
"""Rows of prompts under openr1's own names."""


def read_rows(path: Path, schema: RowSchema = PROMPTS) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a dataset, checked and with openr1's columns, each with its location for messages.

    A row without an id gets `<name>:<number>`: the file's name without suffix, and the row's line or number in it; of a
    dataset of the hub its name, config and split, and the number in all its files together.

    Args:
        path: A file (`data.files.SUFFIXES`), or `OWNER/NAME[@REVISION][:CONFIG]:SPLIT` of the hub if no file is there.
        schema: Where the columns are.

    Raises:
        MissingError: The file cannot be read, or the dataset is neither in the local cache nor can it be downloaded.
        ConfigError: There are no rows, or a row is malformed; the message begins with `file:line` or `file:row`.
    """
    empty = True
    for location, default_id, raw in _raw_rows(path):
        empty = False
        yield location, to_row(raw, schema, default_id, location)
    if empty:
        raise ConfigError(f"{path}: no rows; see data/README.md for how to prepare a dataset")


def _raw_rows(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Location, default id and columns of each row."""
    split = hub_split(path)
    if split is None and not path.exists() and is_repository(str(path)):
        raise MissingError(f"{path}: no such file; a dataset of the hub is written {path}:CONFIG:SPLIT")
    if split is None:
        for location, raw in read_file(path):
            yield location, f"{path.stem}:{location.rpartition(':')[2]}", raw
        return
    name = "-".join([split.repository.rpartition("/")[2], split.config, split.split])
    number = 0
    for file in fetch(split):
        for location, raw in read_file(file):
            number += 1
            yield location, f"{name}:{number}", raw


def hub_split(path: Path) -> HubSplit | None:
    """The split of the hub that a path names; None if it is a file's."""
    return None if path.exists() or path.suffix in SUFFIXES else parse_hub_name(str(path))
