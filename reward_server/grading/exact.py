"""The cheap paths: answers that can be decided in microseconds, by text or by exact arithmetic, without a parser."""

import re
from fractions import Fraction

from reward_server.grading.notation import normalize

MAX_DIGITS = 100
"""Numbers with more digits than this are left to others."""
ROUNDING_TOLERANCE = Fraction(1, 1000)
"""Decimals that differ by more than this share of the larger are different, whatever they were rounded to."""

_THIN = re.compile(r"\\[!,]\s*")
_SPACE = re.compile(r"\\[;: ]|~")
_IDLE_SPACE = re.compile(r"(?<!\d)(?<!\d,)\s|\s(?!\d)")
_INTEGER = r"[+-]?(?:\d{1,3}(?:(?:,|\{,\})\d{3})+|\d+)"
_NUMBER = re.compile(rf"{_INTEGER}(?:\.\d*)?|[+-]?\.\d+")
_FRACTION = re.compile(r"([+-]?)(?:(\d+)/(\d+)|\\frac(?:\{([+-]?\d+)\}|(\d))(?:\{([+-]?\d+)\}|(\d)))")
_MIXED = re.compile(r"([+-]?)(\d+)(?: (\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\})")


def exact_match(answer: str, gold: str) -> bool | None:
    """Whether the two are the same, where that is plain; None where only a parser can tell.

    Equal texts, after `normalize` and without white space that means nothing, are the same. Integers, fractions and
    decimals are compared exactly; a decimal that comes within 0.1 % of the gold is left open, since it may be the
    gold rounded.
    """
    answer, gold = _collapse_spaces(answer), _collapse_spaces(gold)
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
    r"""The value of an integer (`1,000` too), a decimal, a fraction or a mixed number; None for all else.

    Fractions are `a/b` and `\frac{a}{b}`, mixed numbers `1 1/2` and `1\frac{1}{2}`.
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


def _collapse_spaces(text: str) -> str:
    """Without white space that means nothing; what stands between two digits, or after a comma between two, stays."""
    text = _SPACE.sub(" ", _THIN.sub("", normalize(text)))
    return _IDLE_SPACE.sub("", " ".join(text.split()))
