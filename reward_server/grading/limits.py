"""Size limits on expressions, checked on their text alone: which are too large to parse, and which look expensive."""

import re

MAX_CHARS = 1500
"""Maximum length of an expression; the longest gold of the benchmarks has about 300 characters."""
MAX_DIGITS = 120
"""Numbers of this many digits or more are too large; commas between groups of digits do not end a number."""
MAX_NESTING = 25
"""Maximum nesting depth of brackets."""
MAX_TOWER = 3
"""Maximum height of a power tower, that is, of exponents on exponents."""
MAX_EXPONENT_DIGITS = 6
MAX_FACTORIAL_DIGITS = 4
MAX_DOLLARS = 100

_DIGITS = re.compile(rf"\d{{{MAX_DIGITS},}}|\d(?:(?:,|\{{,\}})\d{{3}}){{{MAX_DIGITS // 3},}}")
_LARGE_EXPONENT = re.compile(rf"\^\s*\{{?\s*\(?\s*-?\d{{{MAX_EXPONENT_DIGITS + 1},}}")
_LARGE_FACTORIAL = re.compile(rf"\d{{{MAX_FACTORIAL_DIGITS + 1},}}\s*[)}}]*\s*!")
_NESTED_FACTORIAL = re.compile(r"[\d)}\]]![\s)}\]]*!|\^\s*\{[^{}]*!")
_NUMERIC_TOWER = re.compile(r"\^(?:\\left|[\s{(])*\d+\s*\^")
_EXPENSIVE = re.compile(
    r"\\(?:sum|prod|int|lim|binom|dbinom|tbinom|iint|oint)(?![A-Za-z])|\^\s*\{?\s*\(?-?\d{3,}|(?<!\\)!"
)
_EXPENSIVE_CHARS = 300


def why_too_large(expression: str) -> str | None:
    """Why an expression is too large to parse, or None if it is not. Takes linear time."""
    if len(expression) > MAX_CHARS:
        return f"{len(expression)} characters, the limit is {MAX_CHARS}"
    if _DIGITS.search(expression):
        return f"a number of {MAX_DIGITS} digits or more"
    nesting, tower = _depths(expression)
    if nesting > MAX_NESTING:
        return f"brackets nested {nesting} deep, the limit is {MAX_NESTING}"
    if tower > MAX_TOWER:
        return f"a power tower of {tower} exponents, the limit is {MAX_TOWER}"
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
    """Whether comparing an expression may take long: powers of powers, sums, factorials, or a long text."""
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
