"""The cheap paths: answers that can be decided in microseconds, by text or by exact arithmetic, without a parser."""

import re
from fractions import Fraction

from reward_server.grading.notation import tidy

MAX_DIGITS = 100
"""Numbers with more digits than this are left to others."""
CLEARLY_APART = Fraction(1, 1000)
"""Decimals that differ by more than this share of the larger are different, whatever they were rounded to."""

_NOTHING = re.compile(r"\\[,;:! ]|[\s~]")
_INTEGER = r"[+-]?(?:\d{1,3}(?:(?:,|\{,\})\d{3})+|\d+)"
_NUMBER = re.compile(rf"({_INTEGER})(\.\d*)?|([+-]?)(\.\d+)")
_FRACTION = re.compile(r"([+-]?)\\frac(?:\{([+-]?\d+)\}|(\d))(?:\{([+-]?\d+)\}|(\d))|([+-]?)(\d+)/(\d+)")


def decide(answer: str, gold: str) -> bool | None:
    """Whether the two are the same, where that is plain; None where only a parser can tell.

    Equal texts, after `tidy` and without white space, are the same. Integers, fractions and decimals are compared
    exactly; a decimal that comes within 0.1 % of the gold is left open, since it may be the gold rounded.
    """
    answer, gold = _squeeze(answer), _squeeze(gold)
    if not answer or not gold:
        return None if gold else False
    if answer == gold:
        return True
    found, known = read_number(answer), read_number(gold)
    if found is None or known is None:
        return None
    if found == known:
        return True
    rounded = "." in answer or "." in gold
    near = abs(found - known) <= CLEARLY_APART * max(abs(found), abs(known))
    return None if rounded and near else False


def read_number(text: str) -> Fraction | None:
    r"""The value of an integer (`1,000` too), a decimal, `a/b` or `\frac{a}{b}`, without spaces; None for all else."""
    if len(text) > MAX_DIGITS:
        return None
    number = _NUMBER.fullmatch(text)
    if number:
        return Fraction(text.replace("{,}", "").replace(",", "").removesuffix("."))
    fraction = _FRACTION.fullmatch(text)
    if not fraction:
        return None
    sign, *digits, plain_sign, over, under = fraction.groups()
    top, bottom = [part for part in digits if part is not None] if over is None else (over, under)
    if int(bottom) == 0:
        return None
    return Fraction(int(top), int(bottom)) * (-1 if (sign or plain_sign) == "-" else 1)


def _squeeze(text: str) -> str:
    return _NOTHING.sub("", tidy(text))
