"""What OpenRLHF's clients send and expect: whole texts in, numbers only out.

Three generations of them: `{"query"}` (the label is looked up by the prompt in a loaded dataset), `{"query",
"prompts"}` (the same, by a prompt of its own), and `{"query", "prompts", "labels"}`.
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

from reward_server.grader import Grader
from reward_server.schema import ScoreItem, Text, describe_problems
from reward_server.scoring import GradingResult
from reward_server.tasks.task import Task

_FIRST_TOKEN = re.compile(r"\s*<[^<>\s]{1,40}>")
_LAST_TOKEN = re.compile(r"(?:<\|[^<>|]{1,40}\|>|</s>|<eos>|<｜[^<>｜]{1,40}｜>)\Z")
_MAX_TOKEN_CHARS = 44
_RESERVED_LOG_NAMES = frozenset({"reward", "score", "return", "truncated", "response_length", "total_length"})
"""What OpenRLHF logs itself: an extra log of such a name would replace its own number."""


def to_label(value: Any) -> str:
    """A label as text: strings as they are, numbers and objects as JSON, None as "", which no task can read.

    Raises:
        TypeError: It is not JSON, and nothing of numpy's either.
        ValueError: It is or holds a NaN.
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
    """Body of `POST /get_reward`. Single texts stand for lists of one; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    query: list[Text]
    """Prompt and response in one text, as decoded from tokens."""
    prompts: list[Text] | None = None
    labels: list[Label] | None = None
    """Any JSON; "" is what OpenRLHF sends for a dataset without labels, and stands for none."""

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
    """Each component (`task_` before a name that OpenRLHF uses itself), and `failed`: 1 where nothing was graded."""
    errors: list[RewardError | None]
    verdicts: list[str]


class UnknownPrompt(LookupError):
    """A query begins with no prompt of the loaded dataset, or not with the prompt sent beside it."""


class LabelConflict(ValueError):
    """A dataset gives one prompt two labels."""


class _Row(BaseModel):
    prompt: Text = Field(validation_alias=AliasChoices("prompt", "question", "problem"))
    label: JsonValue = Field(validation_alias=AliasChoices("label", "answer"))


class PromptIndex:
    """The prompts of a dataset and their labels, found in a text from its front."""

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        """Take (prompt, label) pairs. White space around a prompt is dropped, as chat templates do.

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
        self._anchor = min(map(len, self._labels), default=1)
        self._by_anchor: dict[str, list[str]] = {}
        for prompt in sorted(self._labels, key=len, reverse=True):
            self._by_anchor.setdefault(prompt[: self._anchor], []).append(prompt)

    def __len__(self) -> int:
        return len(self._labels)

    @classmethod
    def read(cls, path: Path) -> "PromptIndex":
        """Read JSON lines with `prompt` (or `question`, `problem`) and `label` (or `answer`); labels may be any JSON.

        Raises:
            LabelConflict: A line gives the prompt of an earlier one another label.
            ValueError: A line cannot be used. Both messages begin with `file:line`.
            OSError: The file cannot be read.
        """
        number = 0

        def rows() -> Iterator[tuple[str, str]]:
            nonlocal number
            # Lines of bytes: in text, a line would also end at separators that JSON may hold.
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
        """Label of the prompt that occurs first in the text, and what follows that occurrence.

        The first, because a policy can only write after its prompt: a question that it forges comes later. Of prompts
        that begin at one place the longest counts, if all have one label: else the policy could choose among them by
        going on with its prompt.

        Raises:
            UnknownPrompt: The text holds none, or several with different labels at one place.
        """
        if not self._labels:
            raise UnknownPrompt("no label was sent, and no dataset is loaded that could tell it")
        for start in range(len(text) - self._anchor + 1):
            candidates = self._by_anchor.get(text[start : start + self._anchor], ())
            found = [prompt for prompt in candidates if text.startswith(prompt, start)]
            if len({self._labels[prompt] for prompt in found}) > 1:
                raise UnknownPrompt(f"{len(found)} prompts with different labels begin the query; send `prompts`")
            if found:
                return self._labels[found[0]], text[start + len(found[0]) :]
        raise UnknownPrompt("the query holds no prompt of the loaded dataset")

    def label_for(self, prompt: str) -> str:
        """Label of a prompt that was sent by itself.

        Raises:
            UnknownPrompt: It is not in the dataset, not even as a part.
        """
        return self._labels[prompt] if prompt in self._labels else self.find(prompt)[0]


def grade_texts(grader: Grader, task: Task[Any], request: RewardRequest, index: PromptIndex) -> list[GradingResult]:
    """A score for every query; one whose prompt or label is not to be found has failed."""
    items = to_items(request, index)
    graded = iter(grader.grade(task, [item for item in items if isinstance(item, ScoreItem)]))
    return [
        next(graded)[0] if isinstance(item, ScoreItem) else GradingResult("error", error=f"unknown_prompt: {item}")
        for item in items
    ]


def to_items(request: RewardRequest, index: PromptIndex) -> list[ScoreItem | str]:
    """One item a query, or the reason why there is none."""
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
            ScoreItem(id=str(number), response=strip_special_tokens(response), label=label, prompt=prompt or "")
        )
    return items


def strip_special_tokens(response: str) -> str:
    """The response without the special tokens that end it, and the white space around those. Takes linear time."""
    end = len(response)
    while True:
        place = end
        while place and response[place - 1].isspace():
            place -= 1
        token = _LAST_TOKEN.search(response, max(0, place - _MAX_TOKEN_CHARS), place)
        if token is None:
            return response[: place if end < len(response) else end]
        end = token.start()


def strip_prompt(query: str, prompt: str) -> str:
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


def to_reply(task: Task[Any], scores: Sequence[GradingResult]) -> RewardReply:
    """Numbers for all items; a failed one gets the task's `failed_reward` and says so."""
    failed = [score.reward is None for score in scores]
    return RewardReply(
        rewards=[task.failed_reward if score.reward is None else score.reward for score in scores],
        scores=[score.score or 0.0 for score in scores],
        extra_logs={
            **{
                f"task_{name}" if name in _RESERVED_LOG_NAMES else name: [
                    score.components.get(name, 0.0) for score in scores
                ]
                for name in task.components
            },
            "failed": [float(flag) for flag in failed],
        },
        errors=[_to_error(score) if flag else None for score, flag in zip(scores, failed, strict=True)],
        verdicts=[score.verdict for score in scores],
    )


def _to_error(score: GradingResult) -> RewardError:
    code, _, message = (score.error or "error").partition(": ")
    return RewardError(code=code, message=message)
