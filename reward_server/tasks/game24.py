"""The 24 game: combine four numbers with + - * / to reach 24. Rewards outcome, process and length."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reward_server.components.steps import SIGNS, process_correctness
from reward_server.components.tags import find_answer, find_thinking
from reward_server.schema import describe_problems
from reward_server.tasks.countdown import Numbers, Puzzle, solves
from reward_server.tasks.task import Example, GradingContext, LabelError, RewardComponent, Task

SHORT, LONG, TOO_LONG = 200, 4000, 8000
"""Lengths of a response in characters: `length_reward` is 1 from SHORT to LONG, and 0 from TOO_LONG on."""


class Cards(BaseModel):
    """A label, `{"numbers": [4, 2, 6, 3]}`; the target defaults to 24."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    numbers: Numbers
    target: int = Field(default=24, ge=-(10**9), le=10**9)


def parse_label(label: str) -> Puzzle:
    """Parse a label, which is JSON text.

    Raises:
        LabelError: The label is not such an object. The message names the first problems.
    """
    try:
        cards = Cards.model_validate_json(label)
    except ValidationError as error:
        raise LabelError(f"not a game24 label: {describe_problems(error.errors())}") from error
    return Puzzle(numbers=cards.numbers, target=cards.target)


def find_expression(text: str) -> str | None:
    """The content of the answer tags, without the `= 24` that models often append."""
    answer = find_answer(text)
    return answer and (answer.partition("=")[0].strip() or None)


def outcome_reward(context: GradingContext[Puzzle]) -> float:
    """1 if the answer reaches the target and uses each given number exactly once; × and ÷ are * and /."""
    return float(context.answer is not None and solves(context.answer.translate(SIGNS), context.gold))


def process_reward(context: GradingContext[Puzzle]) -> float:
    """Fraction of correct steps in the thinking, or in the whole text if it has no think tags."""
    return process_correctness(find_thinking(context.text) or context.text, context.gold.numbers)


def length_reward(context: GradingContext[Puzzle]) -> float:
    """Rises linearly from 0 to 1 at SHORT characters, stays 1 until LONG, and falls linearly to 0 at TOO_LONG."""
    length = len(context.text)
    return max(0.0, min(1.0, length / SHORT, (TOO_LONG - length) / (TOO_LONG - LONG)))


GAME24 = Task(
    name="game24",
    version="2",
    summary="an expression in answer tags that makes 24 from four numbers, using each exactly once",
    parse_label=parse_label,
    find_answer=find_expression,
    components={
        "outcome": RewardComponent(0.55, outcome_reward),
        "process": RewardComponent(0.30, process_reward),
        "length": RewardComponent(0.15, length_reward),
    },
    accuracy="outcome",
    example=Example(
        "<think>4 * 3 = 12, 2 * 6 = 12, 12 + 12 = 24</think>\n<answer>(4 * 3) + (2 * 6)</answer>",
        '{"numbers": [4, 2, 6, 3]}',
    ),
)
