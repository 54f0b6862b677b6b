"""Size limits on expressions, checked on their text alone: which are too large to parse, and which look expensive."""

import re
from dataclasses import dataclass
from functools import lru_cache

from reward_server.grading.notation import with_carets


@dataclass(frozen=True)
class ExpressionLimits:
    """The largest expression that is parsed. Tests lower the limits, so that harmless expressions exceed them."""

    chars: int = 1500
    """Maximum length; the longest gold of the benchmarks has about 300 characters."""
    digits: int = 120
    """Numbers of this many digits or more are too large; commas between groups of digits do not end a number."""
    nesting: int = 25
    """Maximum nesting depth of brackets."""
    tower: int = 3
    """Maximum height of a power tower, that is, of exponents on exponents."""
    exponent_digits: int = 6
    """Maximum number of digits of an exponent."""
    factorial_digits: int = 4
    """Maximum number of digits of a number before a factorial sign."""
    dollars: int = 100
    """Maximum number of dollar signs."""


DEFAULT_LIMITS = ExpressionLimits()
_NESTED_FACTORIAL = re.compile(r"[\d)}\]]![\s)}\]]*!|\^\s*\{[^{}]*!")
_NUMERIC_TOWER = re.compile(r"\^(?:\\left|[\s{(])*\d+\s*\^")
_EXPENSIVE = re.compile(
    r"\\(?:sum|prod|int|lim|binom|dbinom|tbinom|iint|oint)(?![A-Za-z])|\^\s*\{?\s*\(?-?\d{3,}|(?<!\\)!"
)
_EXPENSIVE_CHARS = 300


@lru_cache(maxsize=16)
def _patterns(limits: ExpressionLimits) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Long numbers, large exponents, and factorials of large numbers."""
    digits = re.compile(rf"\d{{{limits.digits},}}|\d(?:(?:,|\{{,\}})\d{{3}}){{{max(1, limits.digits // 3)},}}")
    exponents = re.compile(rf"\^\s*\{{?\s*\(?\s*-?\d{{{limits.exponent_digits + 1},}}")
    return digits, exponents, re.compile(rf"\d{{{limits.factorial_digits + 1},}}\s*[)}}]*\s*!")


def why_too_large(expression: str, limits: ExpressionLimits = DEFAULT_LIMITS) -> str | None:
    """Why an expression is too large to parse, or None if it is not. Takes linear time."""
    expression = with_carets(expression)
    long_number, large_exponent, large_factorial = _patterns(limits)
    if len(expression) > limits.chars:
        return f"{len(expression)} characters, the limit is {limits.chars}"
    if long_number.search(expression):
        return f"a number of {limits.digits} digits or more"
    nesting, tower = _depths(expression)
    if nesting > limits.nesting:
        return f"brackets nested {nesting} deep, the limit is {limits.nesting}"
    if tower > limits.tower:
        return f"a power tower of {tower} exponents, the limit is {limits.tower}"
    if _NUMERIC_TOWER.search(expression):
        return "a number to the power of a power of numbers"
    if large_exponent.search(expression):
        return f"an exponent of more than {limits.exponent_digits} digits"
    if large_factorial.search(expression) or _NESTED_FACTORIAL.search(expression):
        return "a factorial of a large number, or of a factorial"
    if expression.count("$") > limits.dollars:
        return f"more than {limits.dollars} dollar signs"
    return None


def is_expensive(expression: str) -> bool:
    """Whether comparing an expression may take long: powers of powers, sums, factorials, or a long text."""
    expression = with_carets(expression)
    return len(expression) > _EXPENSIVE_CHARS or _EXPENSIVE.search(expression) is not None or _depths(expression)[1] > 1


def _depths(expression: str) -> tuple[int, int]:
    """Maximum nesting depth of brackets, and maximum height of a power tower."""
    deepest = highest = 0
    open_brackets: list[bool] = []  # for each open bracket, whether it is an exponent
    raised = False
    chain = 0
    for char in expression:
        if char in "{([":
            open_brackets.append(raised)
            chain += raised
            deepest, highest = max(deepest, len(open_brackets)), max(highest, chain)
            raised = False
        elif char in "})]":
            if open_brackets:
                chain -= open_brackets.pop()
            raised = False
        elif char == "^":
            highest = max(highest, chain + 1)
            raised = True
        elif not char.isspace():
            raised = False
    return deepest, highest
