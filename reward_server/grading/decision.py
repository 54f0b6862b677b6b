"""Decides equality without the LaTeX parser, wherever this package can read both sides itself."""

import re

from reward_server.algebra.nodes import Statement, Words
from reward_server.algebra.statements import same
from reward_server.grading import Outcome, Unread
from reward_server.grading.golds import read_gold
from reward_server.reading.statement import read

_NUMERAL = re.compile(r"(?=[A-Z]*\d)[\dA-Z]{1,12}_\{?(?:1[1-9]|2\d|3[0-6])\}?")
"""A number with letters for digits: if the gold is one, the answer may have them in lower case."""


def read_answer(answer: str) -> list[Statement]:
    """All sensible readings of an answer; none if only a parser for all of LaTeX might read it."""
    return read(answer, gold=False)


def decide(answer: str, gold: str) -> Outcome | None:
    """Whether an answer equals a gold; None if one cannot be read here, or if only symbolic computation can tell.

    An answer that is no expression is read as text, to be compared with golds that are text. For other golds it is
    `Unread`.

    Raises:
        GoldUnparseable: The gold holds no answer.
    """
    known = read_gold(gold)
    found = read_answer(answer.upper() if _NUMERAL.fullmatch(gold) and _NUMERAL.fullmatch(answer.upper()) else answer)
    if not found or not known:
        return None
    equal = same(found, known)
    if equal is False and found[0].unread and not any(isinstance(one.node, Words) for one in known):
        return Unread(found[0].unread)
    return equal
