"""Which expressions are too large to be worth a parser's time, and which are better watched: by their text alone."""

import re

MAX_CHARS = 1500
"""Longest expression; the longest gold of the benchmarks has 300 characters or so."""
MAX_DIGITS = 120
"""A number of so many digits is refused; commas between groups of digits do not end it."""
MAX_NESTING = 25
"""Most brackets open at once."""
MAX_TOWER = 3
"""Most exponents on exponents."""
MAX_EXPONENT_DIGITS = 6
MAX_FACTORIAL_DIGITS = 4
MAX_DOLLARS = 100

_DIGITS = re.compile(rf"\d{{{MAX_DIGITS},}}|\d(?:(?:,|\{{,\}})\d{{3}}){{{MAX_DIGITS // 3},}}")
_LARGE_EXPONENT = re.compile(rf"\^\s*\{{?\s*\(?\s*-?\d{{{MAX_EXPONENT_DIGITS + 1},}}")
_LARGE_FACTORIAL = re.compile(rf"\d{{{MAX_FACTORIAL_DIGITS + 1},}}\s*[)}}]*\s*!")
_NESTED_FACTORIAL = re.compile(r"[\d)}\]]![\s)}\]]*!|\^\s*\{[^{}]*!")
_NUMERIC_TOWER = re.compile(r"\^(?:\\left|[\s{(])*\d+\s*\^")
_HEAVY = re.compile(r"\\(?:sum|prod|int|lim|binom|dbinom|tbinom|iint|oint)(?![A-Za-z])|\^\s*\{?\s*\(?-?\d{3,}|(?<!\\)!")
_HEAVY_CHARS = 300


def why_too_large(expression: str) -> str | None:
    """Why an expression is not looked at, or None. Costs linear time."""
    if len(expression) > MAX_CHARS:
        return f"{len(expression)} characters, the limit is {MAX_CHARS}"
    if _DIGITS.search(expression):
        return f"a number of {MAX_DIGITS} digits or more"
    nesting, tower = _depths(expression)
    if nesting > MAX_NESTING:
        return f"{nesting} brackets within each other, the limit is {MAX_NESTING}"
    if tower > MAX_TOWER:
        return f"a tower of {tower} exponents, the limit is {MAX_TOWER}"
    if _NUMERIC_TOWER.search(expression):
        return "a number to the power of a power of numbers"
    if _LARGE_EXPONENT.search(expression):
        return f"an exponent of more than {MAX_EXPONENT_DIGITS} digits"
    if _LARGE_FACTORIAL.search(expression) or _NESTED_FACTORIAL.search(expression):
        return "a factorial of a large number, or of a factorial"
    if expression.count("$") > MAX_DOLLARS:
        return f"more than {MAX_DOLLARS} dollar signs"
    return None


def is_expensive(expression: str) -> bool:
    """Whether an expression may take a parser long: powers of powers, sums, factorials, much text."""
    return len(expression) > _HEAVY_CHARS or _HEAVY.search(expression) is not None or _depths(expression)[1] > 1


def _depths(expression: str) -> tuple[int, int]:
    """Most brackets open at once, and most exponents within each other."""
    deepest = highest = 0
    open_brackets: list[bool] = []
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
