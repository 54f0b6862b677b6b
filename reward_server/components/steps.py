"""Arithmetic steps in a reasoning trace, such as `4 * 3 = 12`, and whether each is correct."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

MAX_STEPS = 2000
"""Maximum number of steps that are evaluated; later steps are ignored."""

# Every repetition is bounded, so that the search takes linear time on any text.
_VALUE = r"-?\d{1,9}(?:\.\d{1,9}| ?/ ?\d{1,9})?"
_NUMBER = rf"({_VALUE}|\( {{0,2}}{_VALUE} {{0,2}}\))"
_SIGN = r"[-+*/×÷]"
# A match must not be the end of a longer number or calculation: in `4 + 2 + 6 = 12`, `2 + 6 = 12` is not a step.
_START = rf"(?<![\d.)])(?<![\d)]{_SIGN})(?<![\d)] {_SIGN})(?<![\d)]{_SIGN} )(?<![\d)] {_SIGN} )(?:(?<![\d)] )|(?!-))"
_STEP = re.compile(rf"{_START}{_NUMBER} ?({_SIGN}) ?{_NUMBER} ?= ?{_NUMBER}(?!\d|\.\d| ?/ ?\d)")
SIGNS = str.maketrans({"×": "*", "÷": "/"})
"""The signs of multiplication and division of the 24 game, in thinking and answer alike, as those of a program."""


@dataclass(frozen=True)
class ArithmeticStep:
    """`left sign right = result`, as written."""

    left: Fraction
    sign: str
    right: Fraction
    result: Fraction

    @property
    def correct(self) -> bool:
        """Whether the equation holds exactly; False for a division by zero."""
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
    """All steps with two operands in a text, from left to right, at most `MAX_STEPS`.

    Parts of longer calculations, such as `(4 * 3) + (2 * 6) = 24`, are not steps.
    """
    steps = []
    for match in _STEP.finditer(text):
        left, sign, right, result = match.groups()
        numbers = [_read(number) for number in (left, right, result)]
        if all(number is not None for number in numbers):
            steps.append(ArithmeticStep(numbers[0], sign.translate(SIGNS), numbers[1], numbers[2]))  # type: ignore[arg-type]
        if len(steps) == MAX_STEPS:
            break
    return steps


def process_correctness(text: str, given: Iterable[int]) -> float:
    """Fraction of steps, in [0, 1], that are correct and use only available numbers; 0 if there are no steps.

    Available are the given numbers and the results of earlier correct steps. Numbers are not consumed, because a search
    backtracks and uses them again. A number that occurs twice in one step must be available twice.
    """
    available = Counter(Fraction(number) for number in given)
    steps = find_steps(text)
    good = 0
    for step in steps:
        needed = Counter((step.left, step.right))
        if step.correct and all(available[number] >= count for number, count in needed.items()):
            good += 1
            available[step.result] += 1
    return good / len(steps) if steps else 0.0


def _read(number: str) -> Fraction | None:
    top, _, bottom = number.strip("()").replace(" ", "").partition("/")
    if bottom and int(bottom) == 0:
        return None
    return Fraction(top) / int(bottom) if bottom else Fraction(top)
