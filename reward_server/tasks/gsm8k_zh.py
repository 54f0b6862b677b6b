"""Word problems with a number as the answer, in think and answer tags on lines of their own; rewarded by rules."""

import re

from reward_server.components.tags import find_answer
from reward_server.grading.exact import exact_match, read_number
from reward_server.grading.notation import normalize
from reward_server.tasks.task import Example, GradingContext, LabelError, RewardComponent, Task

_MARKS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
_INTEGER = re.compile(r"[+-]?\d{1,100}")


def parse_label(label: str) -> str:
    """The number, or what stands after the last `####`.

    Raises:
        LabelError: That is no number.
    """
    gold = normalize(label.rpartition("####")[2])
    if read_number(gold) is None:
        raise LabelError(f"{label[:100]!r} does not end in a number")
    return gold


def marks_reward(context: GradingContext[str]) -> float:
    """A quarter for each of the four tags that is there exactly once, with its newlines."""
    return sum(context.text.count(mark) == 1 for mark in _MARKS) / len(_MARKS)


def soft_reward(context: GradingContext[str]) -> float:
    """1 where the four tags come in order, whatever stands between and around them."""
    place = 0
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        place = context.text.find(tag, place)
        if place < 0:
            return 0.0
        place += len(tag)
    return 1.0


def strict_reward(context: GradingContext[str]) -> float:
    r"""1 for exactly `<think>\n...\n</think>\n<answer>\n...\n</answer>`, and at most one newline after it."""
    text = context.text.removesuffix("\n")
    thinking, between, answer = text.partition("\n</think>\n<answer>\n")
    in_layout = (
        between != ""
        and thinking.startswith("<think>\n")
        and answer.endswith("\n</answer>")
        and all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    )
    return float(in_layout)


def digits_reward(context: GradingContext[str]) -> float:
    """1 where the answer is an integer."""
    return float(context.answer is not None and _INTEGER.fullmatch(normalize(context.answer)) is not None)


def correctness_reward(context: GradingContext[str]) -> float:
    """1 where the answer is the gold number, compared exactly; units are not read."""
    return float(context.answer is not None and exact_match(context.answer, context.gold) is True)


GSM8K_ZH = Task(
    name="gsm8k_zh",
    version="1",
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
