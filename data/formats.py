"""From rows as public datasets have them to rows in the schema of data/README.md."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.generate_countdown import Problem, problem_row
from data.raw_files import BadRow, BadRows, read_file
from openr1.errors import ConfigError
from reward_server.grading.exact import exact_match
from reward_server.grading.extraction import find_boxed
from reward_server.tasks import UnknownTask, find_task
from reward_server.tasks.countdown import Puzzle
from reward_server.tasks.task import LabelError

PUZZLES = ("countdown", "game24")
"""Tasks whose prompts all use the same words, about other numbers."""
DIFFICULTIES = {1: "easy", 2: "easy", 3: "medium", 4: "medium", 5: "medium"}
"""Of the levels of MATH."""
_LEVEL = re.compile(r"(?:Level )?([1-5])")


def find_difficulty(meta: Mapping[str, Any]) -> str | None:
    """The difficulty that a row's `meta` names, or that of its level in MATH; None where it has neither."""
    level = _LEVEL.fullmatch(str(meta.get("level")))
    return str(meta["difficulty"]) if meta.get("difficulty") else DIFFICULTIES[int(level[1])] if level else None


@dataclass(frozen=True)
class Raw:
    """A row as it was found."""

    place: str
    columns: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A column that must say something.

        Raises:
            BadRow: It is missing, blank, or no string.
        """
        value = self._value(name)
        if not isinstance(value, str):
            raise self.fault("wrong type", f"`{name}` must be a string, found {type(value).__name__}")
        if not value.strip():
            raise self.fault("blank text", f"`{name}` is blank")
        return value

    def answer(self, name: str) -> str:
        """A column with a known answer: a text, or a number, which becomes its JSON text.

        Raises:
            BadRow: It is missing, blank, or something else.
        """
        value = self._value(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return json.dumps(value)
        return self.text(name)

    def texts(self, name: str) -> list[str]:
        """A column with a list of texts.

        Raises:
            BadRow: It is missing, empty, or something else.
        """
        value = self._value(name)
        if not (isinstance(value, list) and value and all(isinstance(entry, str) for entry in value)):
            raise self.fault("wrong type", f"`{name}` must be a list of strings")
        return value

    def has(self, name: str) -> bool:
        """Whether the column is there, with a value."""
        return self.columns.get(name) is not None

    def fault(self, kind: str, detail: str) -> BadRow:
        """The error that this row cannot be used."""
        return BadRow(self.place, kind, detail)

    def _value(self, name: str) -> Any:
        if not self.has(name):
            raise self.fault("missing column", f"no `{name}`")
        return self.columns[name]


def _ours(raw: Raw, wording: str) -> dict[str, Any]:
    row = {name: value for name, value in raw.columns.items() if value is not None}
    for name in ("id", "label", "task"):
        raw.text(name)
    if raw.has("prompt") == raw.has("messages"):
        raise raw.fault("missing column", "exactly one of `prompt` and `messages` must be given")
    if raw.has("messages"):
        messages = row["messages"]
        if not (isinstance(messages, list) and messages and all(_is_message(message) for message in messages)):
            raise raw.fault("wrong type", "`messages` must be a list of {role, content} strings")
    else:
        raw.text("prompt")
    if not isinstance(row.get("meta", {}), dict):
        raise raw.fault("wrong type", "`meta` must be an object")
    if not isinstance(row.get("prefix", ""), str):
        raise raw.fault("wrong type", "`prefix` must be a string")
    return row


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _countdown(raw: Raw, wording: str) -> dict[str, Any]:
    numbers, target = raw.columns.get("nums"), raw.columns.get("target")
    whole = isinstance(numbers, list) and all(type(number) is int and number > 0 for number in numbers)
    if not (isinstance(numbers, list) and whole and len(numbers) > 1 and type(target) is int):
        raise raw.fault("wrong type", "`nums` must be two or more positive integers, `target` an integer")
    return problem_row(Problem(tuple(numbers), target), wording)


def _gsm8k_zh(raw: Raw, wording: str) -> dict[str, Any]:
    return {"prompt": raw.text("question_zh-cn"), "label": raw.answer("answer_only"), "meta": {}}


def _question(raw: Raw, wording: str) -> dict[str, Any]:
    listed = raw.has("final_answer") and not raw.has("answer")
    label = ", ".join(raw.texts("final_answer")) if listed else raw.answer("answer")
    context = f"{raw.text('context')}\n\n" if raw.has("context") else ""
    return {"prompt": context + raw.text("question"), "label": label, "meta": {}}


def _problem(raw: Raw, wording: str) -> dict[str, Any]:
    row = {"prompt": raw.text("problem"), "meta": _meta(raw)}
    if raw.has("solution"):
        row["response"] = raw.text("solution")
    if raw.has("answer"):
        return row | {"label": raw.answer("answer")}
    if find_boxed(raw.text("solution")) is None:
        raise raw.fault("no answer", r"no `answer`, and no \boxed{...} in `solution`")
    return row | {"label": row["response"]}


def _meta(raw: Raw) -> dict[str, Any]:
    """Level, difficulty and subject, as far as they are given."""
    meta: dict[str, Any] = {}
    level = _LEVEL.fullmatch(str(raw.columns.get("level")))
    if level:
        meta["level"] = int(level[1])
        meta["difficulty"] = find_difficulty(meta)
    for name in ("type", "subject"):
        if raw.has(name):
            meta["subject"] = raw.text(name)
    return meta


def _prompt(raw: Raw, wording: str) -> dict[str, Any]:
    meta = raw.columns.get("meta", {})
    if not isinstance(meta, dict):
        raise raw.fault("wrong type", "`meta` must be an object")
    row = {"prompt": raw.text("prompt"), "label": raw.answer("answer"), "meta": meta}
    return row | {"response": raw.text("solution")} if raw.has("solution") else row


@dataclass(frozen=True)
class Format:
    """Columns that tell it (of each group, one), how a row is converted, and the task if a row names none."""

    columns: tuple[tuple[str, ...], ...]
    convert: Callable[[Raw, str], dict[str, Any]]
    task: str = "math"


FORMATS = {
    "openr1": Format((("id",), ("label",), ("task",), ("prompt", "messages")), _ours),
    "countdown": Format((("nums",), ("target",)), _countdown, "countdown"),
    "gsm8k-zh": Format((("question_zh-cn",), ("answer_only",)), _gsm8k_zh, "gsm8k_zh"),
    "question": Format((("question",), ("answer", "final_answer")), _question),
    "problem": Format((("problem",), ("solution", "answer")), _problem),
    "prompt": Format((("prompt",), ("answer",)), _prompt),
}
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Reading:
    """How files are read.

    `format` is one of `FORMATS`, or None: as the columns of a file's first row tell. `task` replaces the task of every
    row; `wording`, one of `data.generate_countdown.WORDINGS`, is that of Countdown problems given as numbers.
    """

    format: str | None = None
    task: str | None = None
    wording: str = "en"


@dataclass(frozen=True)
class Record:
    """A row in our schema, where it was found, what its question is, and the known answer as its task reads it.

    `gold` is None where `key` says it all, as that of a puzzle of numbers does.
    """

    file: Path
    place: str
    row: dict[str, Any]
    key: str
    gold: Any

    def same_answer(self, other: "Record") -> bool:
        """Whether the answers are plainly equal: as values that a task read, as texts, or as numbers."""
        if isinstance(self.gold, str) and isinstance(other.gold, str):
            return exact_match(self.gold, other.gold) is True
        return bool(self.gold == other.gold)


def convert_file(path: Path, reading: Reading, bad: BadRows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a file in our schema, each with its place; rows of other formats have no `id` yet.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: It has no rows, its columns are of no known format, or a row is bad (`BadRow`).
    """
    form = FORMATS[reading.format] if reading.format else None
    for place, columns in read_file(path, bad):
        if form is None:
            form = FORMATS[recognise(columns, place)]
        try:
            row = form.convert(Raw(place, columns), reading.wording)
        except BadRow as fault:
            bad.add(fault)
            continue
        yield place, {**row, "task": reading.task or row.get("task", form.task)}
    if form is None:
        raise ConfigError(f"{path}: no rows; data/README.md tells how to make some")


def recognise(columns: Mapping[str, Any], place: str) -> str:
    """Name of the first format that has these columns.

    Raises:
        ConfigError: There is none; the message lists what would do.
    """
    for name, form in FORMATS.items():
        if all(any(column in columns for column in group) for group in form.columns):
            return name
    known = "; ".join(
        f"{name}: {', '.join('/'.join(group) for group in form.columns)}" for name, form in FORMATS.items()
    )
    raise ConfigError(f"{place}: the columns {', '.join(columns)} are of no known format ({known})")


def read_records(path: Path, reading: Reading, bad: BadRows) -> Iterator[Record]:
    """Rows of a file in our schema, with an answer that their task can read.

    A row without an id gets one that is made of its task and its question, and so is the same wherever the row stands.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: As `convert_file`; also an unknown task, or an answer that its task cannot read (`BadRow`).
    """
    for place, row in convert_file(path, reading, bad):
        try:
            gold = find_task(row["task"]).parse_label(row["label"])
        except UnknownTask as error:
            raise ConfigError(f"{place}: {error}") from error
        except LabelError as error:
            bad.add(BadRow(place, "no answer", f"the label cannot be read: {error}"))
            continue
        key = question_key(row)
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        ordered = {"id": row.get("id", f"{row['task']}-{digest}"), **row}
        yield Record(path, place, ordered, key, None if row["task"] in PUZZLES else gold)


def question_text(row: Mapping[str, Any]) -> str:
    """What is asked: the prompt, or all that users say in the messages."""
    if "prompt" in row:
        return str(row["prompt"])
    return "\n".join(message["content"] for message in row["messages"] if message["role"] == "user")


def question_key(row: Mapping[str, Any]) -> str:
    """A text that is the same for the same question, for one row in our schema.

    Composed characters (NFC) and single spaces; case and signs stay, since they make other questions. A puzzle of
    numbers is its numbers in any order and its target, in whatever words it is asked.
    """
    if row["task"] in PUZZLES:
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
