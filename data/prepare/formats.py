"""Convert rows of public datasets to the openr1 format, which data/README.md describes."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.generate.countdown import Problem, problem_row
from data.prepare.readers import BadRowError, BadRowHandler, read_file
from openr1.errors import ConfigError
from reward_server.grading.exact import exact_match
from reward_server.grading.extraction import find_boxed
from reward_server.tasks import UnknownTask, find_task
from reward_server.tasks.countdown import Puzzle
from reward_server.tasks.task import LabelError

PUZZLE_TASKS = ("countdown", "game24")
"""Number puzzles: all prompts share their wording, and numbers and target identify a question."""
DIFFICULTIES = {1: "easy", 2: "easy", 3: "medium", 4: "medium", 5: "medium"}
"""Difficulty by MATH level."""
_LEVEL = re.compile(r"(?:Level )?([1-5])")


def find_difficulty(meta: Mapping[str, Any]) -> str | None:
    """Return `meta.difficulty`, or the difficulty of the MATH level in `meta.level`, or None if both are missing."""
    level = _LEVEL.fullmatch(str(meta.get("level")))
    return str(meta["difficulty"]) if meta.get("difficulty") else DIFFICULTIES[int(level[1])] if level else None


@dataclass(frozen=True)
class RawRow:
    """A row as read from a file, before conversion."""

    location: str
    columns: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Return a column that must be a non-blank string.

        Raises:
            BadRowError: The column is missing, blank or not a string.
        """
        value = self._value(name)
        if not isinstance(value, str):
            raise self.error("wrong type", f"`{name}` must be a string, found {type(value).__name__}")
        if not value.strip():
            raise self.error("blank text", f"`{name}` is blank")
        return value

    def answer(self, name: str) -> str:
        """Return a reference answer: a non-blank string, or a finite number as its JSON text.

        Raises:
            BadRowError: The column is missing, blank or of another type.
        """
        value = self._value(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return json.dumps(value)
        return self.text(name)

    def texts(self, name: str) -> list[str]:
        """Return a column that must be a non-empty list of strings.

        Raises:
            BadRowError: The column is missing, empty or of another type.
        """
        value = self._value(name)
        if not (isinstance(value, list) and value and all(isinstance(entry, str) for entry in value)):
            raise self.error("wrong type", f"`{name}` must be a list of strings")
        return value

    def has(self, name: str) -> bool:
        """Return whether the column exists and is not null."""
        return self.columns.get(name) is not None

    def error(self, kind: str, detail: str) -> BadRowError:
        """Create the error for this row."""
        return BadRowError(self.location, kind, detail)

    def _value(self, name: str) -> Any:
        if not self.has(name):
            raise self.error("missing column", f"no `{name}`")
        return self.columns[name]


def _native(raw: RawRow, wording: str) -> dict[str, Any]:
    row = {name: value for name, value in raw.columns.items() if value is not None}
    for name in ("id", "label", "task"):
        raw.text(name)
    if raw.has("prompt") == raw.has("messages"):
        raise raw.error("missing column", "exactly one of `prompt` and `messages` must be given")
    if raw.has("messages"):
        messages = row["messages"]
        if not (isinstance(messages, list) and messages and all(_is_message(message) for message in messages)):
            raise raw.error("wrong type", "`messages` must be a list of {role, content} strings")
    else:
        raw.text("prompt")
    if not isinstance(row.get("meta", {}), dict):
        raise raw.error("wrong type", "`meta` must be an object")
    if not isinstance(row.get("prefix", ""), str):
        raise raw.error("wrong type", "`prefix` must be a string")
    return row


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _countdown(raw: RawRow, wording: str) -> dict[str, Any]:
    numbers, target = raw.columns.get("nums"), raw.columns.get("target")
    valid = isinstance(numbers, list) and all(type(number) is int and number > 0 for number in numbers)
    if not (isinstance(numbers, list) and valid and len(numbers) > 1 and type(target) is int):
        raise raw.error("wrong type", "`nums` must be two or more positive integers, `target` an integer")
    return problem_row(Problem(tuple(numbers), target), wording)


def _gsm8k_zh(raw: RawRow, wording: str) -> dict[str, Any]:
    return {"prompt": raw.text("question_zh-cn"), "label": raw.answer("answer_only"), "meta": {}}


def _question(raw: RawRow, wording: str) -> dict[str, Any]:
    listed = raw.has("final_answer") and not raw.has("answer")
    label = ", ".join(raw.texts("final_answer")) if listed else raw.answer("answer")
    context = f"{raw.text('context')}\n\n" if raw.has("context") else ""
    return {"prompt": context + raw.text("question"), "label": label, "meta": {}}


def _problem(raw: RawRow, wording: str) -> dict[str, Any]:
    row = {"prompt": raw.text("problem"), "meta": _meta(raw)}
    if raw.has("solution"):
        row["response"] = raw.text("solution")
    if raw.has("answer"):
        return row | {"label": raw.answer("answer")}
    if find_boxed(raw.text("solution")) is None:
        raise raw.error("no answer", r"no `answer`, and no \boxed{...} in `solution`")
    return row | {"label": row["response"]}


def _meta(raw: RawRow) -> dict[str, Any]:
    """Return level, difficulty and subject where present."""
    meta: dict[str, Any] = {}
    level = _LEVEL.fullmatch(str(raw.columns.get("level")))
    if level:
        meta["level"] = int(level[1])
        meta["difficulty"] = find_difficulty(meta)
    for name in ("type", "subject"):
        if raw.has(name):
            meta["subject"] = raw.text(name)
    return meta


def _prompt(raw: RawRow, wording: str) -> dict[str, Any]:
    meta = raw.columns.get("meta", {})
    if not isinstance(meta, dict):
        raise raw.error("wrong type", "`meta` must be an object")
    row = {"prompt": raw.text("prompt"), "label": raw.answer("answer"), "meta": meta}
    return row | {"response": raw.text("solution")} if raw.has("solution") else row


@dataclass(frozen=True)
class Format:
    """A dataset format.

    Attributes:
        columns: Column groups that identify the format: a row must have at least one column of every group.
        convert: Converts a row, given also the Countdown wording.
        task: Default task of rows that name none.
    """

    columns: tuple[tuple[str, ...], ...]
    convert: Callable[[RawRow, str], dict[str, Any]]
    task: str = "math"


FORMATS = {
    "openr1": Format((("id",), ("label",), ("task",), ("prompt", "messages")), _native),
    "countdown": Format((("nums",), ("target",)), _countdown, "countdown"),
    "gsm8k-zh": Format((("question_zh-cn",), ("answer_only",)), _gsm8k_zh, "gsm8k_zh"),
    "question": Format((("question",), ("answer", "final_answer")), _question),
    "problem": Format((("problem",), ("solution", "answer")), _problem),
    "prompt": Format((("prompt",), ("answer",)), _prompt),
}
"""Supported formats, in the order in which they are tried."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read files.

    Attributes:
        format: A key of `FORMATS`; None detects the format from the columns of a file's first row.
        task: Replaces the task of every row; None keeps it.
        wording: A key of `data.generate.countdown.WORDINGS`, for Countdown problems given as numbers.
    """

    format: str | None = None
    task: str | None = None
    wording: str = "en"


@dataclass(frozen=True)
class SourceRow:
    """A row in the openr1 format, and where it comes from.

    Attributes:
        file: The file that contains the row.
        location: `file:line` or `file:row`, for messages.
        columns: The row in the openr1 format.
        key: Its `question_key`.
        gold: The reference answer as parsed by the task; None for puzzles, which `key` identifies completely.
    """

    file: Path
    location: str
    columns: dict[str, Any]
    key: str
    gold: Any

    def same_answer(self, other: "SourceRow") -> bool:
        """Return whether both reference answers are equal as parsed values, texts or numbers (no symbolic check)."""
        if isinstance(self.gold, str) and isinstance(other.gold, str):
            return exact_match(self.gold, other.gold) is True
        return bool(self.gold == other.gold)


def convert_file(path: Path, options: ReadOptions, bad_rows: BadRowHandler) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the location and the converted columns of each row; rows of foreign formats have no `id` yet.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: The file has no rows, or its columns match no known format.
        BadRowError: A row is bad, and bad rows are not skipped.
    """
    row_format = FORMATS[options.format] if options.format else None
    for location, columns in read_file(path, bad_rows):
        if row_format is None:
            row_format = FORMATS[detect_format(columns, location)]
        try:
            converted = row_format.convert(RawRow(location, columns), options.wording)
        except BadRowError as error:
            bad_rows.add(error)
            continue
        yield location, {**converted, "task": options.task or converted.get("task", row_format.task)}
    if row_format is None:
        raise ConfigError(f"{path}: no rows; data/README.md describes how to generate some")


def detect_format(columns: Mapping[str, Any], location: str) -> str:
    """Return the name of the first format whose columns are present.

    Raises:
        ConfigError: No format matches; the message lists the columns that each format needs.
    """
    for name, row_format in FORMATS.items():
        if all(any(column in columns for column in group) for group in row_format.columns):
            return name
    known = "; ".join(
        f"{name}: {', '.join('/'.join(group) for group in row_format.columns)}" for name, row_format in FORMATS.items()
    )
    raise ConfigError(f"{location}: columns {', '.join(columns)} match no known format ({known})")


def read_source_rows(path: Path, options: ReadOptions, bad_rows: BadRowHandler) -> Iterator[SourceRow]:
    """Yield the rows of a file in the openr1 format, with their labels parsed.

    A row without an id gets one derived from its task and question, so it is the same in every file.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: As in `convert_file`, or the task is unknown.
        BadRowError: A row is bad or its task cannot parse its label, and bad rows are not skipped.
    """
    for location, columns in convert_file(path, options, bad_rows):
        try:
            gold = find_task(columns["task"]).parse_label(columns["label"])
        except UnknownTask as error:
            raise ConfigError(f"{location}: {error}") from error
        except LabelError as error:
            bad_rows.add(BadRowError(location, "no answer", f"cannot parse the label: {error}"))
            continue
        key = question_key(columns)
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        with_id = {"id": columns.get("id", f"{columns['task']}-{digest}"), **columns}
        yield SourceRow(path, location, with_id, key, None if columns["task"] in PUZZLE_TASKS else gold)


def question_text(row: Mapping[str, Any]) -> str:
    """Return the prompt, or all user messages joined by line breaks."""
    if "prompt" in row:
        return str(row["prompt"])
    return "\n".join(message["content"] for message in row["messages"] if message["role"] == "user")


def question_key(row: Mapping[str, Any]) -> str:
    """Return a text that is equal for two rows, in the openr1 format, if they ask the same question.

    Text is compared in Unicode normal form C with white space collapsed; case and symbols are significant. Number
    puzzles are compared by their sorted numbers and target, whatever their wording.
    """
    if row["task"] in PUZZLE_TASKS:
        puzzle = _read_puzzle(row)
        if puzzle:
            return f"numbers {Problem(tuple(puzzle.numbers), puzzle.target).key}"
    return " ".join(unicodedata.normalize("NFC", question_text(row)).split())


def _read_puzzle(row: Mapping[str, Any]) -> Puzzle | None:
    try:
        puzzle: Puzzle = find_task(row["task"]).parse_label(row["label"])
    except LabelError:
        return None
    return puzzle
