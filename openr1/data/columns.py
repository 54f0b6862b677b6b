"""From the columns of a file to those of openr1: names, types that may differ, and what is missing."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openr1.config.data import ColumnName, SourceConfig
from openr1.errors import ConfigError

TEXTS: tuple[ColumnName, ...] = ("task", "response", "chosen", "rejected", "prefix")
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("question", "problem", "query", "instruction", "input"),
    "label": ("reward_model.ground_truth", "answer", "ground_truth", "final_answer", "solution"),
    "response": ("solution", "completion", "output", "answer"),
}
"""Names that public datasets give to openr1's columns; only for the advice in messages."""
PROMPT_ROWS: tuple[ColumnName, ...] = ("label", "task")
"""Columns that a row of a prompt dataset needs besides its prompt."""


@dataclass(frozen=True)
class RowSchema:
    """How the rows of a dataset are read.

    Attributes:
        required: Columns that every row needs besides `prompt` or `messages`.
        columns: Names in the file by openr1's names, with dots for columns inside of others; every row must have these.
            Other columns keep their name.
        task: Task of rows that name none.
        settable: Whether the user can name columns with `data.columns`; messages then say how.
    """

    required: tuple[ColumnName, ...] = PROMPT_ROWS
    columns: Mapping[ColumnName, str] = field(default_factory=dict)
    task: str | None = None
    settable: bool = False

    def name(self, column: ColumnName) -> str | None:
        """The name of a column in the file; None if the file's other form of the prompt is named instead."""
        if column not in self.columns and {"prompt": "messages", "messages": "prompt"}.get(column) in self.columns:
            return None
        return self.columns.get(column, column)

    def describe(self, column: ColumnName) -> str:
        """A column for messages: by its name in the file and, where it differs, by openr1's."""
        name = self.name(column)
        return f"`{column}`" if name == column else f"`{name}` (data.columns.{column})"


def prompt_schema(source: SourceConfig) -> RowSchema:
    """How the rows of a dataset of prompts that a run's config names are read."""
    return RowSchema(columns=source.columns or {}, task=source.task, settable=True)


def example_schema(columns: Mapping[ColumnName, str] | None) -> RowSchema:
    """How the rows of a supervised dataset are read."""
    return RowSchema(("response",), columns or {}, settable=True)


def pair_schema(columns: Mapping[ColumnName, str] | None) -> RowSchema:
    """How the rows of a dataset of preference pairs are read."""
    return RowSchema(("chosen", "rejected"), columns or {}, settable=True)


def to_row(raw: Mapping[str, Any], schema: RowSchema, default_id: str, location: str) -> dict[str, Any]:
    """A row with openr1's columns, checked; other columns and nulls are left out.

    A prompt that is a list stands for `messages`. Numbers become text in `id` (integers) and `label`.

    Args:
        raw: The row of the file.
        schema: Where its columns are.
        default_id: The id of a row without one.
        location: Where the row is, for messages.

    Raises:
        ConfigError: A column is missing or has the wrong type; the message begins with the location.
    """
    found = {column: find(raw, name) for column in _COLUMNS if (name := schema.name(column)) is not None}
    row: dict[str, Any] = {column: value for column, value in found.items() if value is not None}
    if schema.task is not None:
        row.setdefault("task", schema.task)
    row.setdefault("id", default_id)
    _check_there(row, raw, schema, location)
    column: ColumnName = "messages" if "messages" in row else "prompt"
    if not isinstance(row[column], str) or column == "messages":
        row["messages"] = _to_messages(column, row.pop(column), schema, location)
    row["id"] = _to_id(row, schema, location)
    if "label" in row:
        row["label"] = _to_label(row, schema, location)
    for column in TEXTS:
        if not isinstance(row.get(column, ""), str):
            raise _wrong(column, "a string", row, schema, location)
    _check_meta(row, schema, location)
    return row


_COLUMNS: tuple[ColumnName, ...] = ("id", "prompt", "messages", "label", "meta", *TEXTS)


def find(raw: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of one inside of others (`extra_info.index`); None if there is none."""
    if name in raw:
        return raw[name]
    outer, dot, inner = name.partition(".")
    return find(raw[outer], inner) if dot and isinstance(raw.get(outer), dict) else None


def _check_there(row: dict[str, Any], raw: Mapping[str, Any], schema: RowSchema, location: str) -> None:
    if "prompt" in row and "messages" in row:
        raise ConfigError(f"{location}: exactly one of `prompt` and `messages` must be given")
    prompt: list[ColumnName] = [] if "prompt" in row or "messages" in row else ["prompt"]
    missing = prompt + [column for column in schema.required if column not in row]
    named = [column for column in schema.columns if find(raw, schema.columns[column]) is None]
    if not missing and not named:
        return
    names = ", ".join(schema.describe(column) for column in (named or missing))
    raise ConfigError(
        f"{location}: no column {names}; the file has {', '.join(_names_of(raw)) or 'none'}"
        + ("" if named else f". {_advise(missing, raw, schema)}")
    )


def _names_of(raw: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All columns, those inside of others with dots."""
    names = []
    for name, value in raw.items():
        names += _names_of(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]
    return names


def _advise(missing: list[ColumnName], raw: Mapping[str, Any], schema: RowSchema) -> str:
    """The settings that would read this row, as far as its names show them."""
    if not schema.settable:
        return "`data prepare` converts files with other columns (docs/data.md)"
    mapping: dict[str, str] = {str(ours): theirs for ours, theirs in schema.columns.items()}
    for column in missing:
        usable = (str, list) if column == "prompt" else (str, int, float) if column == "label" else (str,)
        taken = mapping.values()
        names = (name for name in OTHER_NAMES.get(column, ()) if name not in taken)
        match = next((name for name in names if isinstance(find(raw, name), usable)), None)
        if match is not None:
            mapping[column] = match
    settings = []
    if mapping:
        settings.append(f"--data.columns '{{{', '.join(f'{ours}: {theirs}' for ours, theirs in mapping.items())}}}'")
    if "task" in missing:
        settings.append("--data.task math (or another task)")
    unknown = [f"`{column}`" for column in missing if column != "task" and column not in mapping]
    advice = f"To read it: {' '.join(settings)}" if settings else "data.columns names what has another name"
    return advice + (f"; nothing looks like {' or '.join(unknown)}: add it to data.columns" if unknown else "")


def _to_messages(column: ColumnName, value: object, schema: RowSchema, location: str) -> list[dict[str, Any]]:
    """Messages without the nulls that Parquet puts where only other messages have a value."""
    entries = value if isinstance(value, list) else []
    messages = [
        {key: part for key, part in entry.items() if part is not None} for entry in entries if isinstance(entry, dict)
    ]
    whole = all(isinstance(message.get(key), str) for message in messages for key in ("role", "content"))
    if not messages or len(messages) != len(entries) or not whole:
        kind = "a string or a list" if column == "prompt" else "a list"
        raise _wrong(column, f"{kind} of {{role, content}} strings", {column: value}, schema, location)
    return messages


def _to_id(row: dict[str, Any], schema: RowSchema, location: str) -> str:
    value = row["id"]
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _wrong("id", "a string or an integer", row, schema, location)


def _to_label(row: dict[str, Any], schema: RowSchema, location: str) -> str:
    value = row["label"]
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return json.dumps(value)
    raise _wrong("label", "a string or a number", row, schema, location)


def _check_meta(row: dict[str, Any], schema: RowSchema, location: str) -> None:
    """Columns of Parquet may hold what has no form in JSON, in which they are sent to the reward server."""
    if not isinstance(row.get("meta", {}), dict):
        raise _wrong("meta", "an object", row, schema, location)
    try:
        json.dumps(row.get("meta"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{location}: {schema.describe('meta')} cannot be written as JSON: {error}") from error


def _wrong(column: ColumnName, kind: str, row: dict[str, Any], schema: RowSchema, location: str) -> ConfigError:
    return ConfigError(f"{location}: {schema.describe(column)} must be {kind}, found {_shown(row[column])}")


def _shown(value: object) -> str:
    """A value in a message, of 80 characters at most."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
