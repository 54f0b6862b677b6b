"""The known answers: which formula of a gold is the answer, and whether the gold holds one at all."""

import re
from functools import lru_cache

from reward_server.algebra.nodes import Statement, Words
from reward_server.grading import GoldUnparseable
from reward_server.grading.notation import unify
from reward_server.reading.statement import read
from reward_server.vocabulary import QUALIFIERS, is_no_answer, plain_words

CACHE_SIZE = 256
"""Golds whose readings are kept, since responses of one group share a gold. More would slow garbage collection."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_DOLLAR = re.compile(r"(?<!\\)\$+")
_OPEN_BOX = re.compile(r"\A[\s$]*\\+boxed\s*\{")
"""The beginning of a box that fills the gold and is never closed."""
_LINK = re.compile(r"[\s,;.、，]*(?:and|or|\\text\s*\{\s*(?:and|or)\s*\})?[\s,;.、，]*")
_INTRODUCTION = re.compile(r"(?:.*\b(?:is|are|be|equals?|gives?|get)|.*[:=])\s*", re.IGNORECASE | re.DOTALL)
_BEHIND = QUALIFIERS | {"at", "attained", "which", "achieved", "obtained", "reached", "units", "unit", "and"}
_OPENING, _CLOSING = r"([{", r")]}"


def is_number(gold: str) -> bool:
    """Whether a gold is written as a single number, which needs no further reading; a fast test for most golds."""
    return _NUMBER.fullmatch(gold) is not None


@lru_cache(maxsize=CACHE_SIZE)
def read_gold(gold: str) -> tuple[Statement, ...]:
    """All sensible readings of a gold; none if only a parser for all of LaTeX might read it.

    Raises:
        GoldUnparseable: The gold says that there is no answer, is prose, or is cut off.
    """
    formula = unify(formula_of(gold))
    plain = re.sub(r"\\(?:text\w*|mbox|mathrm)\s*\{([^{}]*)\}", r" \1 ", formula)
    if not formula or ("\\" not in plain and is_no_answer(plain)):
        raise GoldUnparseable(f"the gold {gold[:100]!r} holds no answer")
    if not _is_balanced(formula):
        raise GoldUnparseable(f"the brackets of the gold {gold[:100]!r} do not match")
    readings = tuple(read(formula, gold=True))
    words = [one.node.text for one in readings if isinstance(one.node, Words)]
    if words and len(words) == len(readings) and any(is_no_answer(text) for text in words):
        raise GoldUnparseable(f"the gold {gold[:100]!r} holds no answer")
    return readings


def formula_of(gold: str) -> str:
    """The part of a gold that is the answer: of text with formulas in dollar signs, the formulas that count.

    These are all, if only commas, "and" or "or" stand between them; else the first, if the text before it introduces it
    ("the value is") and the text behind it begins a condition ("where", "for").

    Raises:
        GoldUnparseable: The text around the formulas says something else.
    """
    gold = gold.replace(r"\(", "$").replace(r"\)", "$") if r"\(" in gold else gold
    gold = _OPEN_BOX.sub("", gold) if gold.count("{") > gold.count("}") else gold
    parts = _DOLLAR.split(gold)
    if len(parts) < 3 or len(parts) % 2 == 0:
        return _DOLLAR.sub("", gold)  # without a pair of dollar signs, they delimit nothing
    texts, formulas = parts[::2], parts[1::2]
    if not texts[0].strip() and not texts[-1].strip(" .\n") and all(_LINK.fullmatch(text) for text in texts[1:-1]):
        links = [" or " if "or" in text else ", " for text in texts[1:-1]]
        return "".join(a + b for a, b in zip(formulas, [*links, ""], strict=True))
    if texts[0].strip() and not _INTRODUCTION.fullmatch(texts[0]):
        raise GoldUnparseable(f"the text before the formula of the gold {gold[:100]!r} is not understood")
    behind = plain_words(texts[1])
    if behind and behind[0] not in _BEHIND and unify(texts[1]):
        raise GoldUnparseable(f"the text behind the formula of the gold {gold[:100]!r} is not understood")
    return formulas[0]


def _is_balanced(text: str) -> bool:
    """Whether every bracket has a partner, of any shape: `[0, 1)` is an interval."""
    depth = 0
    for char in text:
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth < 0:
            return False
    return depth == 0
