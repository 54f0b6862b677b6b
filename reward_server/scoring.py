"""The pure function behind every route: from a response and a label to a reward.

The same arguments always get the same grading. A response that cannot be graded gets no number at all: a 0 would look
like a wrong answer, and training would learn from it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import JsonValue

from reward_server.grading.exact import exact_match
from reward_server.grading.limits import why_too_large
from reward_server.schema import Verdict
from reward_server.tasks.task import CannotGrade, Comparator, Comparison, GradingContext, Task

MAX_EXTRACTED_CHARS = 1000
"""Longest answer that is repeated to the caller, in characters. Grading always sees the whole answer."""

FinishReason = Literal["stop", "length"]

_logger = logging.getLogger(__name__)


class NeedsSymbolic(Exception):
    """Only a parser can answer `comparison`, and parsers run in worker processes: see `reward_server.grader`."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(f"{comparison.answer!r} against {comparison.gold!r} needs a parser")
        self.comparison = comparison


@dataclass(frozen=True)
class GradingResult:
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


def compare_exact(comparison: Comparison) -> bool:
    """Answer what is plain from the text; an answer that no parser should see is not that of a sensible gold.

    Raises:
        NeedsSymbolic: A parser must look at it.
    """
    plain = exact_match(comparison.answer, comparison.gold)
    if plain is not None and (plain or not comparison.prose):
        return plain
    if why_too_large(comparison.answer) is not None and why_too_large(comparison.gold) is None:
        return False
    raise NeedsSymbolic(comparison)


def get_score(
    task: Task[Any],
    response: str,
    label: str,
    *,
    prompt: str = "",
    prefix: str = "",
    meta: Mapping[str, JsonValue] | None = None,
    finish_reason: FinishReason | None = None,
    compare: Comparator = compare_exact,
) -> GradingResult:
    """Grade one response.

    Args:
        task: How to grade.
        response: What the policy wrote after `prefix`; may be empty.
        label: The known truth, in the task's format.
        prompt: The comparison, for tasks that look at it.
        prefix: Assistant text that the prompt already opened, such as `<think>`.
        meta: Further columns of the dataset row, for tasks that look at them.
        finish_reason: "length" for a response that was cut off; it then has the verdict `truncated`, not `no_answer`,
            where no answer was found.
        compare: Tells whether two expressions are equal. The default raises `NeedsSymbolic` where that takes a parser;
            `reward_server.grader.Grader` answers those as well.

    Returns:
        A grading. A label that the task cannot read, and a fault of the grader itself, are returned as failures.

    Raises:
        NeedsSymbolic: From `compare`.
    """
    text = prefix + response
    try:
        gold = task.parse_label(label)
        truncated = finish_reason == "length"
        context = GradingContext(text, task.find_answer(text), gold, prompt, meta or {}, truncated, compare)
        return _grade(task, context)
    except NeedsSymbolic:
        raise
    except CannotGrade as error:
        return GradingResult(error.verdict, error=f"{error.verdict}: {error}")
    except Exception as error:
        # One item that breaks the grader must cost neither its batch nor, as a false 0, the training signal.
        _logger.exception("task %s could not grade an item", task.name)
        return GradingResult("error", error=f"grader_error: {type(error).__name__}: {error}")


def _grade(task: Task[Any], context: GradingContext[Any]) -> GradingResult:
    components = {name: component.fn(context) for name, component in task.components.items()}
    reward = sum(component.weight * components[name] for name, component in task.components.items())
    score = components[task.accuracy]
    extracted = None if context.answer is None else context.answer[:MAX_EXTRACTED_CHARS]
    return GradingResult(_verdict(score, context), reward, score, components, extracted)


def _verdict(score: float, context: GradingContext[Any]) -> Verdict:
    if score == 1:
        return "correct"
    if context.answer is not None:
        return "wrong"
    return "truncated" if context.truncated else "no_answer"
