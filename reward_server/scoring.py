"""Grading of one response: a pure function from response and label to reward, used by every route.

Equal arguments always give equal results. A response that cannot be graded gets no number at all: a 0 would be
indistinguishable from a wrong answer, and training would learn from it.
"""

import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import JsonValue

from reward_server.grading import GoldUnparseable, Outcome, Unread
from reward_server.grading.decision import decide
from reward_server.grading.exact import exact_match
from reward_server.grading.golds import is_number, read_gold
from reward_server.grading.limits import is_expensive, why_too_large
from reward_server.printable import printable
from reward_server.result import GradingResult
from reward_server.schema import Verdict
from reward_server.tasks.task import CannotGrade, Comparison, GradingContext, Task

MAX_EXTRACTED_CHARS = 1000
"""Maximum length of the extracted answer in the result, in characters. Grading always uses the whole answer."""

MAX_REASON_CHARS = 200
"""Maximum length of the reason why an answer cannot be read, in characters: it may quote the answer."""

FinishReason = Literal["stop", "length"]

_logger = logging.getLogger(__name__)


class NeedsSymbolic(Exception):
    """`comparison` needs symbolic mathematics, which only worker processes may run; see `reward_server.grader`."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(f"{comparison.answer!r} against {comparison.gold!r} needs a parser")
        self.comparison = comparison


def compare_exact(comparison: Comparison) -> Outcome:
    """Compare answer and gold by text, by exact arithmetic, and by the package's own reading of them.

    An answer that is too large to parse is not read, unless the gold is as large. Long expressions, and those that look
    expensive, are left to the workers.

    Raises:
        NeedsSymbolic: Only a worker can tell.
        CannotGrade: The gold holds no answer (`gold_unparseable`).
    """
    answer, gold, prose = comparison
    match = exact_match(answer, gold)
    if match is False and not prose:
        return False  # both are numbers, or the answer is blank
    if match and is_number(gold):
        return True
    try:
        known = read_gold(gold)
    except GoldUnparseable as error:
        raise CannotGrade("gold_unparseable", str(error)) from error
    if match:
        return True
    too_large = why_too_large(answer)
    if too_large is not None and why_too_large(gold) is None:
        return Unread(f"it is too large: {too_large}")
    if not prose and known and not is_expensive(answer) and not is_expensive(gold):
        decided = decide(answer, gold)
        if decided is not None:
            return decided
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
    compare: Callable[[Comparison], Outcome] = compare_exact,
) -> GradingResult:
    """Grade one response.

    Args:
        task: Defines how to grade.
        response: Text that the policy generated after `prefix`; may be empty.
        label: The ground truth, in the task's format.
        prompt: The prompt, for tasks that use it.
        prefix: Assistant text that is already part of the prompt, such as `<think>`.
        meta: Other columns of the dataset row, for tasks that use them.
        finish_reason: "length" if generation was truncated. Such a response gets the verdict `truncated` instead of
            `no_answer` if no answer was found.
        compare: Decides whether two mathematical expressions are equal. The default raises `NeedsSymbolic` if that
            takes a parser; `reward_server.grader.Grader` compares those in workers.

    Returns:
        The result. A label that the task cannot read, and an exception in the task's own code, become failures.

    Raises:
        NeedsSymbolic: From `compare`.
    """
    text = prefix + response
    unread: list[Unread] = []

    def equal(comparison: Comparison) -> bool:
        outcome = compare(comparison)
        if isinstance(outcome, Unread):
            unread.append(outcome)
        return outcome is True

    try:
        gold = task.parse_label(label)
        truncated = finish_reason == "length"
        context = GradingContext(text, task.find_answer(text), gold, prompt, meta or {}, truncated, equal)
        result = _grade(task, context)
        return replace(result, reason=_describe(unread[-1])) if unread and result.verdict == "wrong" else result
    except NeedsSymbolic:
        raise
    except CannotGrade as error:
        return GradingResult(error.verdict, error=f"{error.verdict}: {error}")
    except Exception as error:  # noqa: BLE001
        # An item on which the task's code crashes must neither fail its batch nor get a false 0, which would train.
        _logger.error("task %s could not grade an item\n%s", task.name, printable(traceback.format_exc()))
        return GradingResult("error", error=f"grader_error: {type(error).__name__}: {error}")


def _describe(unread: Unread) -> str:
    """One short line, whatever the answer contains."""
    line = " ".join(f"the answer cannot be read: {unread.reason}".split())
    return line if len(line) <= MAX_REASON_CHARS else f"{line[: MAX_REASON_CHARS - 3]}..."


def _grade(task: Task[Any], context: GradingContext[Any]) -> GradingResult:
    components = {name: component.fn(context) for name, component in task.components.items()}
    reward = sum(component.weight * components[name] for name, component in task.components.items())
    score = components[task.accuracy]
    extracted = None if context.answer is None else context.answer[:MAX_EXTRACTED_CHARS]
    return GradingResult(_get_verdict(score, context), reward, score, components, extracted)


def _get_verdict(score: float, context: GradingContext[Any]) -> Verdict:
    if score == 1:
        return "correct"
    if context.answer is not None:
        return "wrong"
    return "truncated" if context.truncated else "no_answer"
