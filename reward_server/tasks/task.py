"""What a task is: how to read a label, where the answer stands, and a weighted sum of named components."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import JsonValue

from reward_server.schema import Verdict

Gold = TypeVar("Gold")
"""A label in the form that the task's components compare with."""


class CannotGrade(Exception):
    """An item gets no number; `verdict` is one of `schema.FAILED_VERDICTS`, the message says why."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


class LabelError(CannotGrade):
    """A label that the task cannot read: a fault of the dataset, never of the response."""

    def __init__(self, reason: str) -> None:
        super().__init__("gold_unparseable", reason)


class Comparison(NamedTuple):
    """Do these two say the same? `prose`: the answer is text that holds an expression somewhere."""

    answer: str
    gold: str
    prose: bool = False


Comparator = Callable[[Comparison], bool]
"""Answers a comparison; raises `CannotGrade` where that is impossible."""


@dataclass(frozen=True)
class GradingContext(Generic[Gold]):
    """Everything that a component may look at."""

    text: str
    """The prefix that the prompt opened, then the response."""
    answer: str | None
    """What the task found to be the answer in `text`; None where there is none."""
    gold: Gold
    prompt: str
    meta: Mapping[str, JsonValue]
    truncated: bool
    """True where the length limit, not the policy, ended the response."""
    compare: Comparator
    """Whether two mathematical expressions are the same."""


@dataclass(frozen=True)
class RewardComponent(Generic[Gold]):
    """One named property of a response: `measure` in [0, 1], and its weight in the reward."""

    weight: float
    fn: Callable[[GradingContext[Gold]], float]


@dataclass(frozen=True)
class Example:
    """A response that the task grades as correct, for `/tasks`, the self-test and the documentation."""

    response: str
    label: str
    prompt: str = ""


@dataclass(frozen=True)
class Task(Generic[Gold]):
    """One kind of problem. The reward is the sum of weight times measure over all components."""

    name: str
    version: str
    """Raised whenever an item could get another grading than before."""
    summary: str
    """One line: what is asked for."""
    parse_label: Callable[[str], Gold]
    """Raises `LabelError` for a label that it cannot read."""
    find_answer: Callable[[str], str | None]
    components: Mapping[str, RewardComponent[Gold]]
    accuracy: str
    """Name of the component that says whether the answer is right; it becomes the score."""
    example: Example
    failed_reward: float = 0.0
    """What clients that cannot take null are told for a failed item."""

    def __post_init__(self) -> None:
        """Refuse a task whose items could never be scored.

        Raises:
            ValueError: `accuracy` is not the name of a component.
        """
        if self.accuracy not in self.components:
            names = ", ".join(self.components) or "none"
            raise ValueError(f"task {self.name}: accuracy is {self.accuracy!r}, but the components are: {names}")

    def with_overrides(self, weights: Mapping[str, float], failed_reward: float | None) -> "Task[Gold]":
        """The task with other weights for some components, and another reward for failed items.

        Raises:
            LookupError: There is no such component; the message names those that exist.
        """
        unknown = sorted(set(weights) - set(self.components))
        if unknown:
            raise LookupError(f"task {self.name} has no component {unknown[0]!r}, only {', '.join(self.components)}")
        changed = {name: replace(self.components[name], weight=weight) for name, weight in weights.items()}
        return replace(
            self,
            components={**self.components, **changed},
            failed_reward=self.failed_reward if failed_reward is None else failed_reward,
        )


Tasks = Mapping[str, Task[Any]]
