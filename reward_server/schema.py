"""The JSON schema of requests and responses, shared by server and client.

Requests are strict: unknown keys, missing keys and values of the wrong type are rejected. Responses are validated for
their types and for the guarantee that a failed item has no reward, but unknown keys in them are ignored, so that a
later version may add some.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    field_validator,
    model_validator,
)

Verdict: TypeAlias = Literal["correct", "wrong", "no_answer", "truncated", "gold_unparseable", "timeout", "error"]
"""Outcome of an item. The first four mean that it was graded, the last three that it failed: `FAILED_VERDICTS`."""

FAILED_VERDICTS: frozenset[Verdict] = frozenset({"gold_unparseable", "timeout", "error"})
"""Verdicts of items that could not be graded. Their reward and score are null, which is not the same as 0."""

TOKEN_VARIABLE = "OPENR1_REWARD_TOKEN"
"""Environment variable with the bearer token, for server and clients. Command lines are visible to all users."""

_MAX_LISTED_PROBLEMS = 3
_MAX_PATH_CHARS = 200


def _require_utf8(text: str) -> str:
    """Reject lone surrogates: JSON can escape them, but they cannot be encoded as UTF-8 in a response."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is half of a surrogate pair") from error
    return text


Text: TypeAlias = Annotated[str, AfterValidator(_require_utf8)]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)


class _Reply(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", use_attribute_docstrings=True)


class ScoreItem(_Request):
    """One response to grade."""

    id: Text
    """Unique within the request; the result has the same id."""
    response: Text
    """Text that the policy generated after `prefix`."""
    label: Text
    """The ground truth, in the format that the task defines."""
    prompt: Text = ""
    prefix: Text = ""
    """Assistant text that is already part of the prompt; graded as the beginning of the response."""
    meta: dict[str, JsonValue] = Field(default_factory=dict)
    """Other columns of the dataset row."""
    finish_reason: Literal["stop", "length"] | None = None
    """Why generation ended; "length" means that the response is truncated."""


class ScoreRequest(_Request):
    """Body of `POST /get_score`. The list of items may be empty; the list of results is then empty, too."""

    task: Text
    items: list[ScoreItem]
    deadline_ms: int | None = Field(default=None, gt=0, le=86_400_000)
    """Deadline for the whole batch in milliseconds. Items not graded by then get the verdict `timeout`. Null: only the
    server's own deadline."""

    @field_validator("items")
    @classmethod
    def _require_unique_ids(cls, items: list[ScoreItem]) -> list[ScoreItem]:
        seen: set[str] = set()
        for index, item in enumerate(items):
            if item.id in seen:
                raise ValueError(f"item {index} repeats the id {item.id!r}; ids must be unique within a request")
            seen.add(item.id)
        return items


class ScoreResult(_Reply):
    """The result of one item. If the verdict is a failure, `reward` and `score` are null and `error` is set."""

    id: str
    reward: FiniteFloat | None
    """Weighted sum of the components."""
    score: Annotated[float, Field(ge=0, le=1)] | None
    """The component that measures the task's accuracy, in [0, 1]."""
    components: dict[str, FiniteFloat]
    """Value of every component before weighting; empty for a failed item."""
    extracted: str | None
    """The answer found in the response, shortened if very long; null if there is none."""
    verdict: Verdict
    error: str | None
    """`code: explanation` for a failed item."""
    reason: str | None = None
    """Why a wrong answer could not be read, in one short line; null if it was read, and differs from the label."""
    ms: Annotated[float, Field(ge=0)]
    """Time spent on grading this item, in milliseconds."""

    @model_validator(mode="after")
    def _require_graded_or_failed(self) -> Self:
        failed = self.verdict in FAILED_VERDICTS
        if {self.reward is None, self.score is None, self.error is not None} != {failed}:
            expected = "null reward, null score and an error" if failed else "a reward, a score and no error"
            raise ValueError(f"verdict {self.verdict!r} needs {expected}")
        return self


class GraderName(_Reply):
    """Name and version of the task that graded. The version changes whenever an item could be graded differently."""

    name: str
    version: str


class ScoreReply(_Reply):
    """Response of `POST /get_score`: one result per item, in the order of the request."""

    results: list[ScoreResult]
    grader: GraderName
    request_id: str


class SingleRequest(BaseModel):
    """Body of `POST /score`, as sent by slime's client for one sample. Unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, coerce_numbers_to_str=True)

    response: Text
    label: Text
    prompt: JsonValue = None
    """Read only for a `<think>` at its end, which is graded with the response. The response is sent without it."""
    task: str | None = None
    """Defaults to the server's `--task`."""


class TaskExample(_Reply):
    """A response that the task grades as correct."""

    prompt: str
    response: str
    label: str


class TaskInfo(_Reply):
    """One task, as listed by `GET /tasks`."""

    summary: str
    version: str
    weights: dict[str, float]
    """Weight of each component in the reward; empty for a function of `--module`, which weights them itself."""
    accuracy: str
    """Name of the component that is reported as the score."""
    failed_reward: float
    """Reward of a failed item, for clients that do not accept null."""
    example: TaskExample | None
    """Null for a function of `--module`."""


class VersionInfo(_Reply):
    """Response of `GET /version`."""

    openr1: str
    parser: str
    tasks: dict[str, str]


def describe_problems(problems: Sequence[Mapping[str, Any]]) -> str:
    """Summarize the errors of a pydantic validation in one line, such as `items.0.label: Field required; ...`.

    Args:
        problems: The result of `ValidationError.errors()`. The first three are described, the others only counted.
    """
    lines = [_describe_problem(problem) for problem in problems[:_MAX_LISTED_PROBLEMS]]
    if len(problems) > _MAX_LISTED_PROBLEMS:
        lines.append(f"and {len(problems) - _MAX_LISTED_PROBLEMS} more")
    return "; ".join(lines)


def _describe_problem(problem: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if len(path) > _MAX_PATH_CHARS:
        path = f"{path[:_MAX_PATH_CHARS]}..."
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{path}: {message}" if path else message
