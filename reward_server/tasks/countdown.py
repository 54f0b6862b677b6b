"""Countdown: combine given numbers with + - * / to reach a target, using each number exactly once."""

from collections import Counter
from fractions import Fraction
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reward_server.components.arithmetic import ExpressionError, evaluate
from reward_server.components.tags import find_answer, find_thinking, has_think_answer_layout
from reward_server.schema import describe_problems
from reward_server.tasks.task import Example, GradingContext, LabelError, RewardComponent, Task

LONG_THOUGHT = 1000
"""Length of thinking above which `thought` is rewarded, in characters."""
TOLERANCE = Fraction(1, 100_000)
"""Maximum difference from the target that still counts as reaching it."""

_LARGEST = 10**9

Numbers = Annotated[list[Annotated[int, Field(ge=0, le=_LARGEST)]], Field(min_length=1, max_length=20)]
"""The given numbers of a puzzle."""


class Puzzle(BaseModel):
    """A label, such as `{"numbers": [3, 5, 7], "target": 22}`.

    The order of numbers does not matter. A number that occurs several times must be used as many times.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    numbers: Numbers
    target: Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]


def parse_label(label: str) -> Puzzle:
    """Parse a label, which is JSON text.

    Raises:
        LabelError: The label is not such an object. The message names the first problems.
    """
    try:
        return Puzzle.model_validate_json(label)
    except ValidationError as error:
        raise LabelError(f"not a countdown label: {describe_problems(error.errors())}") from error


def solves(answer: str, puzzle: Puzzle) -> bool:
    """Whether the answer uses exactly the given numbers and its value is within `TOLERANCE` of the target.

    Numbers are compared as written: 3.0 and 03 are not 3, and 35 is not 3 and 5. An equals sign makes the answer wrong,
    like any other character that does not belong to an expression.
    """
    try:
        result = evaluate(answer)
    except ExpressionError:
        return False
    given = Counter(str(number) for number in puzzle.numbers)
    return Counter(result.literals) == given and abs(result.value - puzzle.target) <= TOLERANCE


def format_reward(context: GradingContext[Puzzle]) -> float:
    """1 if prefix and response together are one think block and one answer block, and nothing else."""
    return float(has_think_answer_layout(context.text))


def equation_reward(context: GradingContext[Puzzle]) -> float:
    """1 if the answer solves the puzzle, regardless of the format."""
    return float(context.answer is not None and solves(context.answer, context.gold))


def thought_reward(context: GradingContext[Puzzle]) -> float:
    """1 if the thinking is longer than `LONG_THOUGHT` characters."""
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
