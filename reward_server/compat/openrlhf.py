"""The protocol of OpenRLHF's HTTP clients, which send whole texts and accept only numbers.

There are three generations of requests: `{"query"}`, where the prompt is found in the query and the label looked up in
a loaded dataset; `{"query", "prompts"}`, where the label is looked up by the prompt; and `{"query", "prompts",
"labels"}`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationError,
    model_validator,
)

from reward_server.components.tags import opened_thought
from reward_server.grader import Grader
from reward_server.schema import ScoreItem, Text, describe_problems
from reward_server.scoring import GradingResult
from reward_server.tasks import AnyTask

_FIRST_TOKEN = re.compile(r"\s*<[^<>\s]{1,40}>")
_LAST_TOKEN = re.compile(r"(?:<\|[^<>|]{1,40}\|>|</s>|<eos>|<｜[^<>｜]{1,40}｜>)\Z")
_MAX_TOKEN_CHARS = 44
_RESERVED_LOG_NAMES = frozenset({"reward", "score", "return", "truncated", "response_length", "total_length"})
"""Metrics that OpenRLHF logs itself; an extra log with one of these names would overwrite it."""


def to_label(value: Any) -> str:
    """A label as text: strings unchanged, other values as JSON, and None as "", which no task accepts.

    Raises:
        TypeError: The value contains something that is neither JSON nor from numpy.
        ValueError: The value is or contains a NaN.
    """
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, default=_to_plain, allow_nan=False)


def _to_plain(value: Any) -> Any:
    try:
        return value.tolist()
    except AttributeError:
        raise TypeError(f"a label cannot hold a {type(value).__name__}") from None


Label = Annotated[Text, BeforeValidator(to_label)]


class RewardRequest(BaseModel):
    """Body of `POST /get_reward`. A single string is the same as a list of one; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    query: list[Text]
    """Prompt and response in one text, as decoded from tokens."""
    prompts: list[Text] | None = None
    labels: list[Label] | None = None
    """Any JSON values. An empty string means no label: OpenRLHF sends it for a dataset without labels."""

    @model_validator(mode="before")
    @classmethod
    def _wrap_single_texts(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: [entry] if isinstance(entry, str) else entry for key, entry in value.items()}
        return value

    @model_validator(mode="after")
    def _require_equal_lengths(self) -> "RewardRequest":
        for name, texts in (("prompts", self.prompts), ("labels", self.labels)):
            if texts is not None and len(texts) != len(self.query):
                raise ValueError(f"{name}: {len(texts)} for {len(self.query)} queries")
        return self


class RewardError(BaseModel):
    """Why an item got the task's `failed_reward`."""

    code: str
    message: str


class RewardReply(BaseModel):
    """Response of `POST /get_reward`. Every list has one entry per item; `rewards` and `scores` are always numbers."""

    rewards: list[FiniteFloat]
    scores: list[FiniteFloat]
    extra_logs: dict[str, list[FiniteFloat]]
    """Each component, prefixed with `task_` if OpenRLHF uses its name, and `failed`: 1 for items not graded."""
    errors: list[RewardError | None]
    verdicts: list[str]


class UnknownPrompt(LookupError):
    """A query contains no prompt of the loaded dataset, or does not begin with the prompt sent with it."""


class LabelConflict(ValueError):
    """A dataset has two different labels for the same prompt."""


class _Row(BaseModel):
    prompt: Text = Field(validation_alias=AliasChoices("prompt", "question", "problem"))
    label: JsonValue = Field(validation_alias=AliasChoices("label", "answer"))


class PromptIndex:
    """The prompts and labels of a dataset, for looking up the label of a text that contains a prompt."""

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        """Build the index from (prompt, label) pairs. White space around prompts is stripped, as chat templates do.

        Raises:
            LabelConflict: Two rows have the same prompt and different labels.
            ValueError: A prompt or a label is blank.
        """
        self._labels: dict[str, str] = {}
        for prompt, label in rows:
            prompt = prompt.strip()
            if not prompt or not label.strip():
                raise ValueError(f"the {'label' if prompt else 'prompt'} is blank")
            if self._labels.setdefault(prompt, label) != label:
                raise LabelConflict(f"the prompt {prompt[:80]!r} has the labels {self._labels[prompt]!r} and {label!r}")
        # To search a text for thousands of prompts at once, the prompts are hashed by their first characters: as many
        # as the shortest prompt has. Candidates with equal anchors are tried longest first.
        self._anchor = min(map(len, self._labels), default=1)
        self._by_anchor: dict[str, list[str]] = {}
        for prompt in sorted(self._labels, key=len, reverse=True):
            self._by_anchor.setdefault(prompt[: self._anchor], []).append(prompt)

    def __len__(self) -> int:
        return len(self._labels)

    @classmethod
    def read(cls, path: Path) -> "PromptIndex":
        """Read a JSON Lines file with the keys `prompt` (or `question`, `problem`) and `label` (or `answer`).

        Labels may be any JSON value.

        Raises:
            LabelConflict: A line has the prompt of an earlier line, but another label.
            ValueError: A line is invalid. Both messages begin with `file:line`.
            OSError: The file cannot be read.
        """
        number = 0

        def rows() -> Iterator[tuple[str, str]]:
            nonlocal number
            # Split bytes, not text: str.splitlines also splits at separators such as U+2028, which JSON may contain.
            for number, line in enumerate(path.read_bytes().splitlines(), start=1):  # noqa: B007 (read below)
                row = _Row.model_validate_json(line)
                yield row.prompt, to_label(row.label)

        try:
            return cls(rows())
        except ValidationError as error:
            raise ValueError(f"{path}:{number}: {describe_problems(error.errors())}") from error
        except ValueError as error:
            raise type(error)(f"{path}:{number}: {error}") from error

    def find(self, text: str) -> tuple[str, str]:
        """Label of the prompt that occurs first in the text, and the text after that occurrence.

        The first occurrence, because the policy can only write after its prompt: a prompt that it forges comes later.
        If several prompts begin at the same position, the longest is used, provided that all have the same label.
        Otherwise the policy could select a label by continuing the shorter prompt into the longer one.

        Raises:
            UnknownPrompt: The text contains no known prompt, or several with different labels at the same position.
        """
        if not self._labels:
            raise UnknownPrompt(
                "no label was sent, and no dataset is loaded to look it up: send `labels`, or serve with --data"
            )
        for start in range(len(text) - self._anchor + 1):
            candidates = self._by_anchor.get(text[start : start + self._anchor], ())
            found = [prompt for prompt in candidates if text.startswith(prompt, start)]
            if len({self._labels[prompt] for prompt in found}) > 1:
                raise UnknownPrompt(
                    f"{len(found)} prompts with different labels begin at the same position: send `prompts`"
                )
            if found:
                return self._labels[found[0]], text[start + len(found[0]) :]
        raise UnknownPrompt("the query contains no prompt of the loaded dataset")

    def label_for(self, prompt: str) -> str:
        """Label of a prompt that was sent separately, possibly inside a chat template.

        Raises:
            UnknownPrompt: It neither is nor contains a prompt of the dataset.
        """
        return self._labels[prompt] if prompt in self._labels else self.find(prompt)[0]


def grade_texts(grader: Grader, task: AnyTask, request: RewardRequest, index: PromptIndex) -> list[GradingResult]:
    """Grade every query. A query without a known prompt or label gets the verdict `error`."""
    items = to_items(request, index)
    graded = iter(grader.grade(task, [item for item in items if isinstance(item, ScoreItem)]))
    return [
        next(graded)[0] if isinstance(item, ScoreItem) else GradingResult("error", error=f"unknown_prompt: {item}")
        for item in items
    ]


def to_items(request: RewardRequest, index: PromptIndex) -> list[ScoreItem | str]:
    """The item to grade for each query, or the reason why it cannot be graded."""
    items: list[ScoreItem | str] = []
    for number, query in enumerate(request.query):
        prompt = request.prompts[number] if request.prompts is not None else None
        label = request.labels[number] if request.labels is not None else ""
        try:
            response = query
            if prompt is not None:
                response = strip_prompt(query, prompt)
                label = label or index.label_for(prompt)
            elif not label:
                label, response = index.find(query)
        except UnknownPrompt as error:
            items.append(str(error))
            continue
        items.append(
            ScoreItem(
                id=str(number),
                response=strip_special_tokens(response),
                label=label,
                prompt=prompt or "",
                prefix=opened_thought(query[: len(query) - len(response)]),
            )
        )
    return items


def strip_special_tokens(response: str) -> str:
    """The response without special tokens at its end, and without white space around those. Takes linear time.

    White space at the end stays if no special token follows it.
    """
    end = len(response)
    while True:
        stripped = end
        while stripped and response[stripped - 1].isspace():
            stripped -= 1
        # Only the last few characters are searched, which keeps the whole loop linear.
        token = _LAST_TOKEN.search(response, max(0, stripped - _MAX_TOKEN_CHARS), stripped)
        if token is None:
            return response[: stripped if end < len(response) else end]
        end = token.start()


def strip_prompt(query: str, prompt: str) -> str:
    """The response in a query: the text after the prompt, with which the query must begin.

    White space may differ, and one special token (such as `<s>`) may precede the prompt.

    Raises:
        UnknownPrompt: The query begins with something else. Searching for chat markers instead would be unsafe: the
            policy can write them itself.
    """
    if query.startswith(prompt):
        return query[len(prompt) :]
    first_token = _FIRST_TOKEN.match(query)
    for start in (0, first_token.end() if first_token else 0):
        end = _match_words(query, start, prompt)
        if end is not None:
            return query[end:]
    raise UnknownPrompt("the query does not begin with its prompt")


def _match_words(text: str, start: int, prompt: str) -> int | None:
    """Match the prompt against the text from `start`, ignoring white space. Returns the end, or None if they differ."""
    position = start
    for word in prompt.split():
        for char in word:
            while position < len(text) and text[position].isspace():
                position += 1
            if position >= len(text) or text[position] != char:
                return None
            position += 1
    return position


def to_reply(task: AnyTask, results: Sequence[GradingResult]) -> RewardReply:
    """The reply, with a number for every item: a failed one gets `failed_reward` and an entry in `errors`."""
    failed = [result.reward is None for result in results]
    names = dict.fromkeys([*task.components, *(name for result in results for name in result.components)])
    return RewardReply(
        rewards=[task.failed_reward if result.reward is None else result.reward for result in results],
        scores=[result.score or 0.0 for result in results],
        extra_logs={
            **{
                f"task_{name}" if name in _RESERVED_LOG_NAMES else name: [
                    result.components.get(name, 0.0) for result in results
                ]
                for name in names
            },
            "failed": [float(flag) for flag in failed],
        },
        errors=[_to_error(result) if flag else None for result, flag in zip(results, failed, strict=True)],
        verdicts=[result.verdict for result in results],
    )


def _to_error(result: GradingResult) -> RewardError:
    code, _, message = (result.error or "error").partition(": ")
    return RewardError(code=code, message=message)
