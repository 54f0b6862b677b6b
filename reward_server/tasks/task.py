"""What a task is: how to read a label, where the answer stands, and a weighted sum of named components."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import JsonValue

Gold = TypeVar("Gold")
"""A label in the form that the task's components compare with."""


class LabelError(ValueError):
    """A label that the task cannot read: a fault of the dataset, never of the response."""


@dataclass(frozen=True)
class Attempt(Generic[Gold]):
    """Everything that a component may look at."""

    text: str
    """The prefix that the prompt opened, then the response."""
    answer: str | None
    """What the task found to be the answer in `text`; None where there is none."""
    gold: Gold
    prompt: str
    meta: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Component(Generic[Gold]):
    """One named property of a response: `measure` in [0, 1], and its weight in the reward."""

    weight: float
    measure: Callable[[Attempt[Gold]], float]


@dataclass(frozen=True)
class Task(Generic[Gold]):
    """One kind of problem. The reward is the sum of weight times measure over all components."""

    name: str
    version: str
    """Raised whenever an item could get another grading than before."""
    parse_label: Callable[[str], Gold]
    """Raises `LabelError` for a label that it cannot read."""
    find_answer: Callable[[str], str | None]
    components: Mapping[str, Component[Gold]]
    accuracy: str
    """Name of the component that says whether the answer is right; it becomes the score."""
