"""Exact comparison by text and by rational arithmetic, which decides in microseconds and needs no parser."""

import re
from fractions import Fraction

from reward_server.grading.notation import normalize

MAX_DIGITS = 100
"""Maximum length of a number that is compared here; longer ones are left to the parser."""
ROUNDING_TOLERANCE = Fraction(1, 1000)
"""Relative difference above which two decimals are different, however they were rounded."""

_THIN_SPACE = re.compile(r"\\!\s*|\\,\s*(?=\d{3}(?!\d))")
"""Spaces that group digits, or none at all."""
_SPACE = re.compile(r"\\[,;: ]|~")
_INSIGNIFICANT_SPACE = re.compile(r"(?<!\d)(?<!\d,)\s|\s(?!\d)")
_INTEGER = r"[+-]?(?:\d{1,3}(?:(?:,|\{,\})\d{3})+|\d+)"
_NUMBER = re.compile(rf"{_INTEGER}(?:\.\d*)?|[+-]?\.\d+")
_FRACTION = re.compile(r"([+-]?)(?:(0|[1-9]\d*)/([1-9]\d*)|\\frac(?:\{([+-]?\d+)\}|(\d))(?:\{([+-]?\d+)\}|(\d)))")
_MIXED = re.compile(r"([+-]?)(\d+)(?: (\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\})")


def exact_match(answer: str, gold: str) -> bool | None:
    """Whether answer and gold are equal, or None if only a parser can tell.

    Texts are equal if they are identical after `normalize`, apart from insignificant white space. Integers, fractions
    and decimals are compared exactly, except that a decimal within 0.1 % of the gold is left to the parser, since it
    may be the gold rounded.
    """
    answer, gold = collapse_spaces(answer), collapse_spaces(gold)
    if not gold:
        return None
    if not answer:
        return False
    if answer == gold:
        return True
    found, known = read_number(answer), read_number(gold)
    if found is None or known is None:
        return None
    if found == known:
        return True
    rounded = "." in answer or "." in gold
    near = abs(found - known) <= ROUNDING_TOLERANCE * max(abs(found), abs(known))
    return None if rounded and near else False


def read_number(text: str) -> Fraction | None:
    r"""Value of an integer (also `1,000`), decimal, fraction or mixed number; None for any other text.

    Fractions are `a/b` and `\frac{a}{b}`; mixed numbers are `1 1/2` and `1\frac{1}{2}`.
    """
    if len(text) > MAX_DIGITS:
        return None
    if _NUMBER.fullmatch(text):
        return Fraction(text.replace("{,}", "").replace(",", "").removesuffix("."))
    whole = Fraction(0)
    match = _FRACTION.fullmatch(text)
    if match:
        sign, *parts = match.groups()
    else:
        match = _MIXED.fullmatch(text)
        if not match:
            return None
        sign, first, *parts = match.groups()
        whole = Fraction(first)
    top, bottom = (int(part) for part in parts if part is not None)
    if bottom == 0:
        return None
    return (whole + Fraction(top, bottom)) * (-1 if sign == "-" else 1)


def collapse_spaces(text: str) -> str:
    """Normalized, without insignificant white space: all but that between digits, or after a comma between digits."""
    text = _SPACE.sub(" ", _THIN_SPACE.sub("", normalize(text)))
    return _INSIGNIFICANT_SPACE.sub("", " ".join(text.split()))
