"""Chinese GSM8K: word problems with a number as the answer, and think and answer tags on separate lines."""

import re
from fractions import Fraction

from reward_server.components.quantities import read_quantity
from reward_server.components.tags import find_answer
from reward_server.grading.notation import normalize
from reward_server.tasks.task import Example, GradingContext, LabelError, RewardComponent, Task

_MARKS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
_INTEGER = re.compile(r"[+-]?\d{1,100}")


def parse_label(label: str) -> Fraction:
    """The number that the label consists of, or that follows its last `####`; a unit behind it is ignored.

    Raises:
        LabelError: It is not a number.
    """
    gold = read_quantity(label.rpartition("####")[2])
    if gold is None:
        raise LabelError(f"{label[:100]!r} does not end in a number")
    return gold


def marks_reward(context: GradingContext[Fraction]) -> float:
    """A quarter for each of the four tags that occurs exactly once together with its newlines."""
    return sum(context.text.count(mark) == 1 for mark in _MARKS) / len(_MARKS)


def soft_reward(context: GradingContext[Fraction]) -> float:
    """1 if the four tags occur in order, with any text between and around them."""
    position = 0
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        position = context.text.find(tag, position)
        if position < 0:
            return 0.0
        position += len(tag)
    return 1.0


def strict_reward(context: GradingContext[Fraction]) -> float:
    r"""1 if the text is exactly `<think>\n...\n</think>\n<answer>\n...\n</answer>`, with an optional final newline."""
    text = context.text.removesuffix("\n")
    thinking, between, answer = text.partition("\n</think>\n<answer>\n")
    in_layout = (
        between != ""
        and thinking.startswith("<think>\n")
        and answer.endswith("\n</answer>")
        and all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    )
    return float(in_layout)


def digits_reward(context: GradingContext[Fraction]) -> float:
    """1 if the answer is an integer without a unit."""
    return float(context.answer is not None and _INTEGER.fullmatch(normalize(context.answer)) is not None)


def correctness_reward(context: GradingContext[Fraction]) -> float:
    """1 if the answer is the gold number, exactly; see `read_quantity` for units and scales."""
    return float(context.answer is not None and read_quantity(context.answer) == context.gold)


GSM8K_ZH = Task(
    name="gsm8k_zh",
    version="2",
    summary="a number in answer tags, and the layout of think and answer tags on lines of their own",
    parse_label=parse_label,
    find_answer=find_answer,
    components={
        "marks": RewardComponent(0.5, marks_reward),
        "soft": RewardComponent(0.5, soft_reward),
        "strict": RewardComponent(0.5, strict_reward),
        "digits": RewardComponent(0.5, digits_reward),
        "correctness": RewardComponent(2.0, correctness_reward),
    },
    accuracy="correctness",
    example=Example("<think>\n三加四得七。\n</think>\n<answer>\n7\n</answer>\n", "7", "3 加 4 等于几？"),
)
