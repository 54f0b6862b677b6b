"""Chinese GSM8K: word problems with a number as the answer, and think and answer tags on separate lines."""

import re

from reward_server.components.tags import find_answer
from reward_server.grading.exact import exact_match, read_number
from reward_server.grading.notation import normalize
from reward_server.tasks.task import Example, GradingContext, LabelError, RewardComponent, Task

_MARKS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
_INTEGER = re.compile(r"[+-]?\d{1,100}")


def parse_label(label: str) -> str:
    """The number that the label consists of, or that follows its last `####`.

    Raises:
        LabelError: It is not a number.
    """
    gold = normalize(label.rpartition("####")[2])
    if read_number(gold) is None:
        raise LabelError(f"{label[:100]!r} does not end in a number")
    return gold


def marks_reward(context: GradingContext[str]) -> float:
    """A quarter for each of the four tags that occurs exactly once together with its newlines."""
    return sum(context.text.count(mark) == 1 for mark in _MARKS) / len(_MARKS)


def soft_reward(context: GradingContext[str]) -> float:
    """1 if the four tags occur in order, with any text between and around them."""
    position = 0
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        position = context.text.find(tag, position)
        if position < 0:
            return 0.0
        position += len(tag)
    return 1.0


def strict_reward(context: GradingContext[str]) -> float:
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


def digits_reward(context: GradingContext[str]) -> float:
    """1 if the answer is an integer."""
    return float(context.answer is not None and _INTEGER.fullmatch(normalize(context.answer)) is not None)


def correctness_reward(context: GradingContext[str]) -> float:
    """1 if the answer equals the gold number exactly. An answer with a unit does not."""
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
