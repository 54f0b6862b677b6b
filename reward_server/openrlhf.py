"""What OpenRLHF's clients send and expect: whole texts in, numbers only out.

Three generations of them: `{"query"}` (the label is looked up by the prompt in a loaded dataset), `{"query",
"prompts"}` (the same, by a prompt of its own), and `{"query", "prompts", "labels"}`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from reward_server.schema import ScoreItem, Text
from reward_server.scoring import Score
from reward_server.tasks.task import Task

_FIRST_TOKEN = re.compile(r"\s*<[^<>\s]{1,40}>")
_LAST_TOKENS = re.compile(r"(?:\s*(?:<\|[^<>|]{1,40}\|>|</s>|<eos>|<｜[^<>｜]{1,40}｜>))+\s*\Z")


class RewardRequest(BaseModel):
    """Body of `POST /get_reward`. Single texts stand for lists of one; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    query: list[Text]
    """Prompt and response in one text, as decoded from tokens."""
    prompts: list[Text] | None = None
    labels: list[Text] | None = None

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
    """Answer of `POST /get_reward`: one finite number an item in every list but `errors`."""

    rewards: list[FiniteFloat]
    scores: list[FiniteFloat]
    extra_logs: dict[str, list[FiniteFloat]]
    """Each component, and `failed`: 1 for an item that could not be graded."""
    errors: list[RewardError | None]
    verdicts: list[str]


class UnknownPrompt(LookupError):
    """A query begins with no prompt of the loaded dataset, or not with the prompt sent beside it."""


class LabelConflict(ValueError):
    """A dataset gives one prompt two labels."""


class PromptIndex:
    """The prompts of a dataset and their labels, found in a text from its front."""

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        """Take (prompt, label) pairs.

        Raises:
            LabelConflict: Two rows have the same prompt and different labels.
            ValueError: A prompt is blank.
        """
        self._labels: dict[str, str] = {}
        for prompt, label in rows:
            if not prompt.strip():
                raise ValueError("a prompt is blank")
            if self._labels.setdefault(prompt, label) != label:
                raise LabelConflict(f"the prompt {prompt[:80]!r} has the labels {self._labels[prompt]!r} and {label!r}")
        self._anchor = min(map(len, self._labels), default=1)
        self._by_anchor: dict[str, list[str]] = {}
        for prompt in sorted(self._labels, key=len, reverse=True):
            self._by_anchor.setdefault(prompt[: self._anchor], []).append(prompt)

    def __len__(self) -> int:
        return len(self._labels)

    @classmethod
    def read(cls, path: Path) -> "PromptIndex":
        """Read JSON lines with `prompt` (or `question`, `problem`) and `label` (or `answer`).

        Raises:
            ValueError: A line cannot be used; the message names it.
        """
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                prompt = next(row[key] for key in ("prompt", "question", "problem") if key in row)
                label = next(row[key] for key in ("label", "answer") if key in row)
            except (json.JSONDecodeError, StopIteration, TypeError) as error:
                raise ValueError(f"{path}:{number}: needs a prompt and a label") from error
            rows.append((str(prompt), str(label)))
        try:
            return cls(rows)
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from error

    def find(self, text: str) -> tuple[str, str]:
        """Label of the prompt that occurs first in the text, and what follows that occurrence.

        The first, because a policy can only write after its prompt: a question that it forges comes later. Of prompts
        that begin at one place the longest counts.

        Raises:
            UnknownPrompt: The text holds none.
        """
        for start in range(len(text) - self._anchor + 1):
            for prompt in self._by_anchor.get(text[start : start + self._anchor], ()):
                if text.startswith(prompt, start):
                    return self._labels[prompt], text[start + len(prompt) :]
        raise UnknownPrompt("the query holds no prompt of the loaded dataset")

    def label_of(self, prompt: str) -> str:
        """Label of a prompt that was sent by itself.

        Raises:
            UnknownPrompt: It is not in the dataset, not even as a part.
        """
        return self._labels[prompt] if prompt in self._labels else self.find(prompt)[0]


def to_items(request: RewardRequest, index: PromptIndex) -> list[ScoreItem | str]:
    """One item a query, or the reason why there is none."""
    items: list[ScoreItem | str] = []
    for number, query in enumerate(request.query):
        prompt = request.prompts[number] if request.prompts is not None else None
        label = request.labels[number] if request.labels is not None else None
        try:
            response = query
            if prompt is not None:
                response = text_after(query, prompt)
                label = index.label_of(prompt) if label is None else label
            elif label is None:
                label, response = index.find(query)
        except UnknownPrompt as error:
            items.append(str(error))
            continue
        items.append(
            ScoreItem(id=str(number), response=_LAST_TOKENS.sub("", response), label=label, prompt=prompt or "")
        )
    return items


def text_after(query: str, prompt: str) -> str:
    """The response of a query: what follows its prompt, which it begins with up to white space and one first token.

    Raises:
        UnknownPrompt: It begins with something else. The response is then nowhere for certain: looking for markers
            would find those that the policy wrote.
    """
    if query.startswith(prompt):
        return query[len(prompt) :]
    first = _FIRST_TOKEN.match(query)
    for start in (0, first.end() if first else 0):
        place = _walk(query, start, prompt)
        if place is not None:
            return query[place:]
    raise UnknownPrompt("the query does not begin with its prompt")


def _walk(text: str, place: int, prompt: str) -> int | None:
    """Where in the text the prompt, which begins at `place`, ends; white space may differ."""
    for word in prompt.split():
        for char in word:
            while place < len(text) and text[place].isspace():
                place += 1
            if place >= len(text) or text[place] != char:
                return None
            place += 1
    return place


def to_reply(task: Task[Any], scores: Sequence[Score]) -> RewardReply:
    """Numbers for all items; a failed one gets the task's `failed_reward` and says so."""
    failed = [score.reward is None for score in scores]
    return RewardReply(
        rewards=[task.failed_reward if score.reward is None else score.reward for score in scores],
        scores=[score.score or 0.0 for score in scores],
        extra_logs={
            **{name: [score.components.get(name, 0.0) for score in scores] for name in task.components},
            "failed": [float(flag) for flag in failed],
        },
        errors=[_to_error(score) if flag else None for score, flag in zip(scores, failed, strict=True)],
        verdicts=[score.verdict for score in scores],
    )


def _to_error(score: Score) -> RewardError:
    code, _, message = (score.error or "error").partition(": ")
    return RewardError(code=code, message=message)
