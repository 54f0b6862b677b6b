"""The pure function behind every route: from a response and a label to a reward.

The same arguments always get the same grading. A response that cannot be graded gets no number at all: a 0 would look
like a wrong answer, and training would learn from it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import JsonValue

from reward_server.schema import Verdict
from reward_server.tasks import TASKS
from reward_server.tasks.task import Attempt, LabelError, Task

MAX_EXTRACTED_CHARS = 1000
"""Longest answer that is repeated to the caller, in characters. Grading always sees the whole answer."""

FinishReason = Literal["stop", "length"]

_logger = logging.getLogger(__name__)


class UnknownTask(LookupError):
    """No task has this name; the message lists those that exist."""


@dataclass(frozen=True)
class Score:
    """The grading of one response.

    `reward` is the weighted sum of the components, `score` the component that is the task's accuracy, in [0, 1]. A
    failed item has None for both, no components, and an `error` of the form "code: explanation".
    """

    verdict: Verdict
    reward: float | None = None
    score: float | None = None
    components: Mapping[str, float] = field(default_factory=dict)
    extracted: str | None = None
    error: str | None = None


def find_task(name: str) -> Task[Any]:
    """The task of this name.

    Raises:
        UnknownTask: There is none.
    """
    if name not in TASKS:
        raise UnknownTask(f"unknown task {name!r}; known tasks: {', '.join(sorted(TASKS))}")
    return TASKS[name]


def get_score(
    task: str,
    response: str,
    label: str,
    *,
    prompt: str = "",
    prefix: str = "",
    meta: Mapping[str, JsonValue] | None = None,
    finish_reason: FinishReason | None = None,
) -> Score:
    """Grade one response.

    Args:
        task: Name of a task in `reward_server.tasks.TASKS`.
        response: What the policy wrote after `prefix`; may be empty.
        label: The known truth, in the task's format.
        prompt: The question, for tasks that look at it.
        prefix: Assistant text that the prompt already opened, such as `<think>`.
        meta: Further columns of the dataset row, for tasks that look at them.
        finish_reason: "length" for a response that was cut off; it then has the verdict `truncated`, not `no_answer`,
            where no answer was found. The reward is the same.

    Returns:
        A grading. A label that the task cannot read, and a fault of the grader itself, are returned as failures.

    Raises:
        UnknownTask: There is no task of this name.
    """
    found = find_task(task)
    try:
        gold = found.parse_label(label)
        text = prefix + response
        attempt = Attempt(text, found.find_answer(text), gold, prompt, meta or {})
        return _grade(found, attempt, truncated=finish_reason == "length")
    except LabelError as error:
        return Score("gold_unparseable", error=f"gold_unparseable: {error}")
    except Exception as error:
        # One item that breaks the grader must cost neither its batch nor, as a false 0, the training signal.
        _logger.exception("task %s could not grade an item", task)
        return Score("error", error=f"grader_error: {type(error).__name__}: {error}")


def _grade(task: Task[Any], attempt: Attempt[Any], *, truncated: bool) -> Score:
    components = {name: component.measure(attempt) for name, component in task.components.items()}
    reward = sum(component.weight * components[name] for name, component in task.components.items())
    score = components[task.accuracy]
    extracted = None if attempt.answer is None else attempt.answer[:MAX_EXTRACTED_CHARS]
    return Score(_verdict(score, attempt.answer, truncated), reward, score, components, extracted)


def _verdict(score: float, answer: str | None, truncated: bool) -> Verdict:
    if score == 1:
        return "correct"
    if answer is not None:
        return "wrong"
    return "truncated" if truncated else "no_answer"
