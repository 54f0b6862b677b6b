"""Intermediate steps of a calculation written out, `4 * 3 = 12`, and whether each is right."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

MAX_STEPS = 2000
"""Steps that are looked at; later ones of a longer trace do not count."""

# Every repetition is bounded, so that a search costs linear time on any text.
_VALUE = r"-?\d{1,9}(?:\.\d{1,9}| ?/ ?\d{1,9})?"
_NUMBER = rf"({_VALUE}|\( {{0,2}}{_VALUE} {{0,2}}\))"
_SIGN = r"[-+*/×÷]"
# Not the rest of a longer number or calculation: of `4 + 2 + 6 = 12`, `2 + 6 = 12` is no step.
_START = rf"(?<![\d.)])(?<![\d)]{_SIGN})(?<![\d)] {_SIGN})(?<![\d)]{_SIGN} )(?<![\d)] {_SIGN} )(?:(?<![\d)] )|(?!-))"
_STEP = re.compile(rf"{_START}{_NUMBER} ?({_SIGN}) ?{_NUMBER} ?= ?{_NUMBER}(?!\d|\.\d| ?/ ?\d)")
_SIGNS = {"×": "*", "÷": "/"}


@dataclass(frozen=True)
class ArithmeticStep:
    """`left sign right = result`, as it was written."""

    left: Fraction
    sign: str
    right: Fraction
    result: Fraction

    @property
    def correct(self) -> bool:
        """Whether the arithmetic is exact; a division by zero is not."""
        match self.sign:
            case "+":
                return self.left + self.right == self.result
            case "-":
                return self.left - self.right == self.result
            case "*":
                return self.left * self.right == self.result
            case _:
                return self.right != 0 and self.left / self.right == self.result


def find_steps(text: str) -> list[ArithmeticStep]:
    """All steps of two numbers in a text, from left to right, at most `MAX_STEPS`.

    What is part of a longer calculation, such as `(4 * 3) + (2 * 6) = 24`, is none.
    """
    steps = []
    for match in _STEP.finditer(text):
        left, sign, right, result = match.groups()
        numbers = [_read(number) for number in (left, right, result)]
        if all(number is not None for number in numbers):
            steps.append(ArithmeticStep(numbers[0], _SIGNS.get(sign, sign), numbers[1], numbers[2]))  # type: ignore[arg-type]
        if len(steps) == MAX_STEPS:
            break
    return steps


def process_correctness(text: str, given: Iterable[int]) -> float:
    """Share of steps that are right and use only numbers at hand; 0 without any step.

    At hand are the given numbers and the results of earlier right steps, whichever attempt they belong to: a search
    goes back and uses numbers again. A number that is used twice in one step must be at hand twice.
    """
    at_hand = Counter(Fraction(number) for number in given)
    steps = find_steps(text)
    good = 0
    for step in steps:
        needed = Counter((step.left, step.right))
        if step.correct and all(at_hand[number] >= count for number, count in needed.items()):
            good += 1
            at_hand[step.result] += 1
    return good / len(steps) if steps else 0.0


def _read(number: str) -> Fraction | None:
    top, _, bottom = number.strip("()").replace(" ", "").partition("/")
    if bottom and int(bottom) == 0:
        return None
    return Fraction(top) / int(bottom) if bottom else Fraction(top)
