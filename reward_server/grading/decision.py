"""Decides equality without the LaTeX parser, wherever this package can read both sides itself."""

import re

from reward_server.algebra.equality import same
from reward_server.grading.golds import read_gold
from reward_server.reading.statement import Statement, read

_NUMERAL = re.compile(r"(?=[A-Z]*\d)[\dA-Z]{1,12}_\{?(?:1[1-9]|2\d|3[0-6])\}?")
"""A number with letters for digits: if the gold is one, the answer may have them in lower case."""


def read_answer(answer: str) -> list[Statement]:
    """All sensible readings of an answer; none if only a parser for all of LaTeX might read it."""
    return read(answer, gold=False)


def decide(answer: str, gold: str) -> bool | None:
    """Whether an answer equals a gold; None if one cannot be read here, or if only symbolic computation can tell.

    Raises:
        GoldUnparseable: The gold holds no answer.
    """
    known = read_gold(gold)
    found = read_answer(answer.upper() if _NUMERAL.fullmatch(gold) and _NUMERAL.fullmatch(answer.upper()) else answer)
    return same(found, known) if found and known else None
