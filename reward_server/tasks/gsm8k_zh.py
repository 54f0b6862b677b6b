"""Word problems with a number as the answer, in think and answer tags on lines of their own; rewarded by rules."""

import re

from reward_server.components.tags import find_answer
from reward_server.grading.exact import decide, read_number
from reward_server.grading.notation import tidy
from reward_server.tasks.task import Attempt, Component, Example, LabelError, Task

_MARKS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
_INTEGER = re.compile(r"[+-]?\d{1,100}")


def parse_label(label: str) -> str:
    """The number, or what stands after the last `####`.

    Raises:
        LabelError: That is no number.
    """
    gold = tidy(label.rpartition("####")[2])
    if read_number(gold) is None:
        raise LabelError(f"{label[:100]!r} does not end in a number")
    return gold


def measure_marks(attempt: Attempt[str]) -> float:
    """A quarter for each of the four tags that is there exactly once, with its newlines."""
    return sum(attempt.text.count(mark) == 1 for mark in _MARKS) / len(_MARKS)


def measure_soft(attempt: Attempt[str]) -> float:
    """1 where the four tags come in order, whatever stands between and around them."""
    place = 0
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        place = attempt.text.find(tag, place)
        if place < 0:
            return 0.0
        place += len(tag)
    return 1.0


def measure_strict(attempt: Attempt[str]) -> float:
    r"""1 for exactly `<think>\n...\n</think>\n<answer>\n...\n</answer>`, and at most one newline after it."""
    text = attempt.text.removesuffix("\n")
    thinking, between, answer = text.partition("\n</think>\n<answer>\n")
    in_layout = (
        between != ""
        and thinking.startswith("<think>\n")
        and answer.endswith("\n</answer>")
        and all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    )
    return float(in_layout)


def measure_digits(attempt: Attempt[str]) -> float:
    """1 where the answer is an integer."""
    return float(attempt.answer is not None and _INTEGER.fullmatch(tidy(attempt.answer)) is not None)


def measure_correctness(attempt: Attempt[str]) -> float:
    """1 where the answer is the gold number, compared exactly; units are not read."""
    return float(attempt.answer is not None and decide(attempt.answer, attempt.gold) is True)


GSM8K_ZH = Task(
    name="gsm8k_zh",
    version="1",
    summary="a number in answer tags, and the layout of think and answer tags on lines of their own",
    parse_label=parse_label,
    find_answer=find_answer,
    components={
        "marks": Component(0.5, measure_marks),
        "soft": Component(0.5, measure_soft),
        "strict": Component(0.5, measure_strict),
        "digits": Component(0.5, measure_digits),
        "correctness": Component(2.0, measure_correctness),
    },
    accuracy="correctness",
    example=Example("<think>\n三加四得七。\n</think>\n<answer>\n7\n</answer>\n", "7", "3 加 4 等于几？"),
)
