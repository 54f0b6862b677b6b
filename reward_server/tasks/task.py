"""The definition of a task: how to parse labels and find answers, and a weighted sum of reward components."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from pydantic import JsonValue

from reward_server.schema import Verdict

Gold = TypeVar("Gold")
"""Type of a parsed label, which the task's components compare with."""


class CannotGrade(Exception):
    """An item cannot be graded. `verdict` is one of `schema.FAILED_VERDICTS`; the message says why."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


class LabelError(CannotGrade):
    """The task cannot parse a label: an error in the dataset, never in the response."""

    def __init__(self, reason: str) -> None:
        super().__init__("gold_unparseable", reason)


class Comparison(NamedTuple):
    """An answer and a gold whose mathematical equality is in question.

    `prose` means that the answer is text that contains an expression somewhere.
    """

    answer: str
    gold: str
    prose: bool = False


Comparator = Callable[[Comparison], bool]
"""Whether answer and gold of a comparison are equal; raises `CannotGrade` if that cannot be decided."""


@dataclass(frozen=True)
class GradingContext(Generic[Gold]):
    """The inputs of a reward component: one response with its label."""

    text: str
    """The prefix (assistant text that is part of the prompt) followed by the response."""
    answer: str | None
    """The answer that the task found in `text`; None if there is none."""
    gold: Gold
    prompt: str
    meta: Mapping[str, JsonValue]
    truncated: bool
    """Whether generation was ended by the length limit."""
    compare: Comparator
    """Decides whether two mathematical expressions are equal."""


@dataclass(frozen=True)
class RewardComponent(Generic[Gold]):
    """One term of a reward: a function of the response with values in [0, 1], and its weight."""

    weight: float
    fn: Callable[[GradingContext[Gold]], float]


@dataclass(frozen=True)
class Example:
    """A response that the task grades as correct, for `GET /tasks` and the tests."""

    response: str
    label: str
    prompt: str = ""


@dataclass(frozen=True)
class Task(Generic[Gold]):
    """How to grade one kind of problem. The reward is the sum of weight * value over all components."""

    name: str
    version: str
    """Incremented whenever a change could give some item a different result."""
    summary: str
    """One line: what makes a response correct."""
    parse_label: Callable[[str], Gold]
    """Parses a label; raises `LabelError` if it is invalid."""
    find_answer: Callable[[str], str | None]
    """Extracts the answer from prefix and response; None if there is none."""
    components: Mapping[str, RewardComponent[Gold]]
    accuracy: str
    """Name of the component that tells whether the answer is correct; it is reported as the score."""
    example: Example
    failed_reward: float = 0.0
    """Reward of a failed item, for clients that do not accept null."""

    def __post_init__(self) -> None:
        """Validate the task.

        Raises:
            ValueError: `accuracy` is not the name of a component.
        """
        if self.accuracy not in self.components:
            names = ", ".join(self.components) or "none"
            raise ValueError(f"task {self.name}: accuracy is {self.accuracy!r}, but the components are: {names}")

    def with_overrides(self, weights: Mapping[str, float], failed_reward: float | None) -> "Task[Gold]":
        """A copy of the task with new weights for some components, and a new `failed_reward` if it is not None.

        Raises:
            LookupError: There is no such component. The message lists the existing ones.
        """
        unknown = sorted(set(weights) - set(self.components))
        if unknown:
            raise LookupError(
                f"task {self.name} has no component {unknown[0]!r}; its components: {', '.join(self.components)}"
            )
        changed = {name: replace(self.components[name], weight=weight) for name, weight in weights.items()}
        return replace(
            self,
            components={**self.components, **changed},
            failed_reward=self.failed_reward if failed_reward is None else failed_reward,
        )
