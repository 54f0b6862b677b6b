"""The 24 game: reach 24 from four numbers with + - * /; outcome, process and length are rewarded."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reward_server.components.steps import process_correctness
from reward_server.components.tags import find_answer, find_thinking
from reward_server.schema import describe_problems
from reward_server.tasks.countdown import Numbers, Puzzle, solves
from reward_server.tasks.task import Example, GradingContext, LabelError, RewardComponent, Task

SHORT, LONG, TOO_LONG = 200, 4000, 8000
"""Characters of a response: its length counts in full from SHORT to LONG, and not at all from TOO_LONG on."""


class Cards(BaseModel):
    """A label, `{"numbers": [4, 2, 6, 3]}`; the target is 24 unless it is given."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    numbers: Numbers
    target: int = Field(default=24, ge=-(10**9), le=10**9)


def parse_label(label: str) -> Puzzle:
    """Read the JSON text of a label.

    Raises:
        LabelError: It is no such object; the message names the first faults.
    """
    try:
        cards = Cards.model_validate_json(label)
    except ValidationError as error:
        raise LabelError(f"not a game24 label: {describe_problems(error.errors())}") from error
    return Puzzle(numbers=cards.numbers, target=cards.target)


def find_expression(text: str) -> str | None:
    """The answer, without an `= 24` that is often written after it."""
    answer = find_answer(text)
    return answer and (answer.partition("=")[0].strip() or None)


def outcome_reward(context: GradingContext[Puzzle]) -> float:
    """1 where the answer makes the target from the given numbers, each used once."""
    return float(context.answer is not None and solves(context.answer, context.gold))


def process_reward(context: GradingContext[Puzzle]) -> float:
    """Share of the steps in the thinking (in the whole text, if it has no tags) that are right."""
    return process_correctness(find_thinking(context.text) or context.text, context.gold.numbers)


def length_reward(context: GradingContext[Puzzle]) -> float:
    """Rises from 0 to 1 until SHORT characters, stays 1 until LONG, and falls to 0 at TOO_LONG."""
    length = len(context.text)
    return max(0.0, min(1.0, length / SHORT, (TOO_LONG - length) / (TOO_LONG - LONG)))


GAME24 = Task(
    name="game24",
    version="1",
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
