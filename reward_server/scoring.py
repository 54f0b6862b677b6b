"""The pure function behind every route: from a response and a label to a reward.

The same arguments always get the same grading. A response that cannot be graded gets no number at all: a 0 would look
like a wrong answer, and training would learn from it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import JsonValue

from reward_server.grading.caps import refusal
from reward_server.grading.exact import decide
from reward_server.schema import Verdict
from reward_server.tasks.task import Attempt, CannotGrade, Judge, Question, Task

MAX_EXTRACTED_CHARS = 1000
"""Longest answer that is repeated to the caller, in characters. Grading always sees the whole answer."""

FinishReason = Literal["stop", "length"]

_logger = logging.getLogger(__name__)


class Undecided(Exception):
    """Only a parser can answer `question`, and parsers run in worker processes: see `reward_server.grader`."""

    def __init__(self, question: Question) -> None:
        super().__init__(f"{question.answer!r} against {question.gold!r} needs a parser")
        self.question = question


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


def judge_plainly(question: Question) -> bool:
    """Answer what is plain from the text; an answer that no parser should see is not that of a sensible gold.

    Raises:
        Undecided: A parser must look at it.
    """
    plain = decide(question.answer, question.gold)
    if plain is not None and (plain or not question.prose):
        return plain
    if refusal(question.answer) is not None and refusal(question.gold) is None:
        return False
    raise Undecided(question)


def get_score(
    task: Task[Any],
    response: str,
    label: str,
    *,
    prompt: str = "",
    prefix: str = "",
    meta: Mapping[str, JsonValue] | None = None,
    finish_reason: FinishReason | None = None,
    judge: Judge = judge_plainly,
) -> Score:
    """Grade one response.

    Args:
        task: How to grade.
        response: What the policy wrote after `prefix`; may be empty.
        label: The known truth, in the task's format.
        prompt: The question, for tasks that look at it.
        prefix: Assistant text that the prompt already opened, such as `<think>`.
        meta: Further columns of the dataset row, for tasks that look at them.
        finish_reason: "length" for a response that was cut off; it then has the verdict `truncated`, not `no_answer`,
            where no answer was found.
        judge: Tells whether two expressions are the same. The default raises `Undecided` where that takes a parser;
            `reward_server.grader.Grader` answers those as well.

    Returns:
        A grading. A label that the task cannot read, and a fault of the grader itself, are returned as failures.

    Raises:
        Undecided: From `judge`.
    """
    text = prefix + response
    try:
        gold = task.parse_label(label)
        truncated = finish_reason == "length"
        attempt = Attempt(text, task.find_answer(text), gold, prompt, meta or {}, truncated, judge)
        return _grade(task, attempt)
    except Undecided:
        raise
    except CannotGrade as error:
        return Score(error.verdict, error=f"{error.verdict}: {error}")
    except Exception as error:
        # One item that breaks the grader must cost neither its batch nor, as a false 0, the training signal.
        _logger.exception("task %s could not grade an item", task.name)
        return Score("error", error=f"grader_error: {type(error).__name__}: {error}")


def _grade(task: Task[Any], attempt: Attempt[Any]) -> Score:
    components = {name: component.measure(attempt) for name, component in task.components.items()}
    reward = sum(component.weight * components[name] for name, component in task.components.items())
    score = components[task.accuracy]
    extracted = None if attempt.answer is None else attempt.answer[:MAX_EXTRACTED_CHARS]
    return Score(_verdict(score, attempt), reward, score, components, extracted)


def _verdict(score: float, attempt: Attempt[Any]) -> Verdict:
    if score == 1:
        return "correct"
    if attempt.answer is not None:
        return "wrong"
    return "truncated" if attempt.truncated else "no_answer"
