"""Countdown: reach a target with + - * /, using each given number exactly once."""

from collections import Counter
from fractions import Fraction
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reward_server.components.arithmetic import ExpressionError, evaluate
from reward_server.components.tags import find_answer, find_thinking, has_think_answer_layout
from reward_server.schema import describe_problems
from reward_server.tasks.task import Example, GradingContext, LabelError, RewardComponent, Task

LONG_THOUGHT = 1000
"""Characters of thinking that count as long."""
TOLERANCE = Fraction(1, 100_000)
"""Largest distance from the target that still counts as reaching it."""

_LARGEST = 10**9

Numbers = Annotated[list[Annotated[int, Field(ge=0, le=_LARGEST)]], Field(min_length=1, max_length=20)]
"""The numbers that a puzzle gives."""


class Puzzle(BaseModel):
    """A label, `{"numbers": [3, 5, 7], "target": 22}`. Order does not matter; a repeated number is used repeatedly."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    numbers: Numbers
    target: Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]


def parse_label(label: str) -> Puzzle:
    """Read the JSON text of a label.

    Raises:
        LabelError: It is no such object; the message names the first faults.
    """
    try:
        return Puzzle.model_validate_json(label)
    except ValidationError as error:
        raise LabelError(f"not a countdown label: {describe_problems(error.errors())}") from error


def solves(answer: str, puzzle: Puzzle) -> bool:
    """True where the answer uses exactly the given numbers and comes within `TOLERANCE` of the target.

    Numbers are compared as they are written, so 3.0 and 03 do not stand for 3, and 35 is not 3 and 5. An equals sign
    is refused like every other character that does not belong to an expression.
    """
    try:
        result = evaluate(answer)
    except ExpressionError:
        return False
    given = Counter(str(number) for number in puzzle.numbers)
    return Counter(result.literals) == given and abs(result.value - puzzle.target) <= TOLERANCE


def format_reward(context: GradingContext[Puzzle]) -> float:
    """1 where prefix and response are one think block and one answer block, and nothing else."""
    return float(has_think_answer_layout(context.text))


def equation_reward(context: GradingContext[Puzzle]) -> float:
    """1 where the answer solves the puzzle, whatever the format around it."""
    return float(context.answer is not None and solves(context.answer, context.gold))


def thought_reward(context: GradingContext[Puzzle]) -> float:
    """1 for more than `LONG_THOUGHT` characters of thinking."""
    return float(len(find_thinking(context.text)) > LONG_THOUGHT)


COUNTDOWN = Task(
    name="countdown",
    version="2",
    summary="an equation in answer tags that reaches the target, using each number exactly once",
    parse_label=parse_label,
    find_answer=find_answer,
    components={
        "format": RewardComponent(0.1, format_reward),
        "equation": RewardComponent(1.0, equation_reward),
        "thought": RewardComponent(0.0, thought_reward),
    },
    accuracy="equation",
    example=Example(
        "<think>3 * 5 = 15, and 15 + 7 = 22</think>\n<answer>3 * 5 + 7</answer>", '{"numbers": [3, 5, 7], "target": 22}'
    ),
)
