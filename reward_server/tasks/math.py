r"""Mathematics with a single known answer: the last `\boxed{}` is compared with the gold as mathematics."""

from collections.abc import Callable

from reward_server.grading import GoldUnparseable
from reward_server.grading.extraction import find_boxed, find_tail
from reward_server.grading.golds import is_number, read_gold
from reward_server.tasks.task import Comparison, Example, GradingContext, LabelError, RewardComponent, Task


def parse_label(label: str) -> str:
    """The gold answer of a label: an expression, or a solution that ends in a box or in `#### answer`.

    Raises:
        LabelError: The label is blank, says that there is no answer, is prose, or is cut off.
    """
    boxed = find_boxed(label) if "{" in label else None
    gold = boxed or label.rpartition("####")[2].strip()
    if not gold:
        raise LabelError("the label is blank")
    if not is_number(gold):
        try:
            read_gold(gold)
        except GoldUnparseable as error:
            raise LabelError(str(error)) from error
    return gold


def find_boxed_or_tail(text: str) -> str | None:
    """The last box, or the end of a text without one, for benchmarks that allow answers without a box."""
    return find_boxed(text) if "boxed" in text or "fbox" in text else find_tail(text)


def accuracy_reward(context: GradingContext[str]) -> float:
    """1 if the answer is mathematically equal to the gold."""
    if context.answer is None:
        return 0.0
    prose = find_boxed(context.text) is None
    return float(context.compare(Comparison(context.answer, context.gold, prose)))


def truncated_reward(context: GradingContext[str]) -> float:
    """1 if the response was truncated by the length limit."""
    return float(context.truncated)


def _make(name: str, summary: str, find_answer: Callable[[str], str | None]) -> Task[str]:
    return Task(
        name=name,
        version="4",
        summary=summary,
        parse_label=parse_label,
        find_answer=find_answer,
        components={
            "accuracy": RewardComponent(1.0, accuracy_reward),
            "truncated": RewardComponent(-1.0, truncated_reward),
        },
        accuracy="accuracy",
        example=Example(r"Twice two is \boxed{4}.", "4", "What is 2 * 2?"),
    )


MATH = _make("math", r"the last \boxed{...} equals the gold answer", find_boxed)
MATH_ANY = _make("math_any", r"as math, but an answer without a box counts too", find_boxed_or_tail)
