"""Finds the answer in prose: the last expression of a text without a box, with the words that change or limit it."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from reward_server.grading.notation import with_carets
from reward_server.reading.tokens import FUNCTIONS
from reward_server.vocabulary import (
    BARE_UNITS,
    HARMLESS_IN_PROSE,
    INTRODUCING,
    QUALIFIERS,
    REMARKS,
    SHORT_WORDS,
    changes_meaning,
    changes_number,
    plain_words,
)

_PIECE = re.compile(
    r"""
      \$\$(?P<display>.+?)\$\$
    | \$(?P<inline>(?=\S)[^$]+?(?<=\S)|[^$]*\\[^$]*)\$(?!\d)  # two amounts of dollars are no formula
    | \\\((?P<round>.+?)\\\) | \\\[(?P<square>.+?)\\\]
    | (?P<command> \\(?:text\w*|math\w+|operatorname|mbox|begin|end)\s*\{[^{}]*\} | \\[A-Za-z]+ | \\. )
    | (?P<stop> [.!?。！？।](?=[\s*)\]"']|\Z) | \n )
    | (?P<word> (?:[^\W\d_]|[\u0300-\u036f\u0900-\u0dff])+(?:['’-][^\W\d_]+)* )  # with marks on letters
    | (?P<math> \s+ | [#`"“”]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_SPECIAL_TOKEN = re.compile(r"<\|[^<>|]{1,40}\|>")
_IN_BRACKETS = re.compile(r"\A[(\[]([^()\[\]]*=[^()\[\]]*)[)\]]\Z")
_SYMBOLS = FUNCTIONS | {"sqrt", "pi", "infty"}
_MARKS = " \t\n,;:.!?*`#\"'“”"
_MAX_WORDS = 4
"""Words of an answer that is text."""
_NEAR = 3
"""Words before or behind an expression that may change it; others belong to the rest of the sentence."""


class _Segment(NamedTuple):
    kind: Literal["words", "math", "stop"]
    text: str


def answer_in(text: str, is_text: bool) -> str:
    r"""The answer that a text ends with, as LaTeX: `5 \text{ dozen eggs}` of "So there are 5 dozen eggs."; else blank.

    It is the last expression of the last sentence that has one. Expressions that "and", "or" or a condition ("for
    all") join are one answer. Words before and behind are kept if they change or limit it, for the reader to judge.

    Args:
        text: Text with or without formulas in dollar signs.
        is_text: Whether the gold is text, so that the answer is, too: what follows the last "is".
    """
    sentences: list[list[_Segment]] = [[]]
    for segment in _segments(_SPECIAL_TOKEN.sub(" ", with_carets(text).replace("**", "").replace("—", ","))):
        if segment.kind == "stop":
            sentences.append([])
        else:
            sentences[-1].append(segment)
    find = _text_of if is_text else _expression_of
    return next((found for sentence in reversed(sentences) if (found := find(sentence))), "")


def _segments(text: str) -> list[_Segment]:
    """The text as words, mathematics and ends of sentences; neighbours of the same kind are one segment."""
    segments: list[_Segment] = []
    for piece in _PIECE.finditer(text):
        kind, found = piece.lastgroup or "math", piece[piece.lastgroup or 0]
        formula = kind in ("display", "inline", "round", "square")
        name: Literal["words", "math", "stop"] = "stop" if kind == "stop" else "math"
        if (kind == "word" and _is_word(piece)) or (kind == "math" and not found.strip() and _ends_in_words(segments)):
            name = "words"
        if segments and segments[-1].kind == name and name != "stop" and not formula:
            segments[-1] = _Segment(name, segments[-1].text + found)
        else:
            segments.append(_Segment(name, found))
    return [one for one in segments if one.kind != "math" or re.search(r"[^\W_]", one.text)]


def _ends_in_words(segments: Sequence[_Segment]) -> bool:
    return bool(segments) and segments[-1].kind == "words"


def _is_word(piece: re.Match[str]) -> bool:
    word, before = piece["word"], piece.string[piece.start() - 1 : piece.start()]
    if word in _SYMBOLS:
        return False
    if len(word) == 1:
        article = word in ("a", "I") and re.match(r"\s+[^\W\d_]{2}", piece.string[piece.end() :]) is not None
        return (article and not before.strip()) or word > "\u2e80"
    if before.isdigit() and word.isascii():
        return word.lower() in BARE_UNITS
    return len(word) > 2 or not word.isascii() or word.lower() in SHORT_WORDS


def _text_of(sentence: Sequence[_Segment]) -> str:
    """The words or the letter behind the last verb or colon of a sentence."""
    whole = "".join(segment.text for segment in sentence)
    tail = re.split(rf".*\b(?:{'|'.join(INTRODUCING)})\b|:", whole, flags=re.IGNORECASE | re.DOTALL)[-1].strip(_MARKS)
    return tail if tail != whole.strip(_MARKS) and len(tail.split()) <= _MAX_WORDS else ""


def _expression_of(sentence: Sequence[_Segment]) -> str:
    sentence = _without_remark(sentence)
    places = [index for index, segment in enumerate(sentence) if segment.kind == "math"]
    if not places:
        return ""
    first = last = places.pop()
    while places and _joins(sentence[places[-1] + 1 : first]):
        first = places.pop()
    parts = [f"\\text{{ {one.text} }}" if one.kind == "words" else one.text for one in sentence[first : last + 1]]
    parts[0] = parts[0].lstrip(_MARKS + "=)]}")
    parts[-1] = parts[-1].rstrip(_MARKS + "([{")
    before = _behind_verb(plain_words(sentence[first - 1].text)) if first else []
    limits = [word for word in before if word not in HARMLESS_IN_PROSE and changes_meaning(word)]
    behind = plain_words(sentence[last + 1].text)[:_NEAR] if last + 1 < len(sentence) else []
    if behind and behind[0] in HARMLESS_IN_PROSE:
        behind = [word for word in behind if word not in HARMLESS_IN_PROSE and changes_meaning(word)]
    elif not changes_number(" ".join(behind)) and not BARE_UNITS.intersection(behind):
        behind = []
    texts = [f"\\text{{ {' '.join(words)} }}" if words else "" for words in (limits, behind)]
    return "".join((texts[0], *(_IN_BRACKETS.sub(r"\1", part) for part in parts), texts[1]))


def _without_remark(sentence: Sequence[_Segment]) -> Sequence[_Segment]:
    """The sentence up to a remark on an expression: `5, which is less than 7`, but not `10/2, which is 5`."""
    for index, (before, segment) in enumerate(pairwise(sentence), 1):
        words = plain_words(segment.text) if segment.kind == "words" else []
        if before.kind == "math" and words and words[0] in REMARKS and words[-1] not in INTRODUCING:
            return sentence[:index]
    return sentence


def _joins(between: Sequence[_Segment]) -> bool:
    """Whether what is between two expressions makes them one answer, or the second a condition or a limit."""
    gap = plain_words(" ".join(segment.text for segment in between))
    if not gap:
        return True
    return gap[-1] in ("and", "or") or gap[0] in QUALIFIERS or gap in (["to"], ["times"], ["through"])


def _behind_verb(words: list[str]) -> list[str]:
    """The words behind the last verb that introduces a result; the last words if there is none."""
    places = [index for index, word in enumerate(words) if word in INTRODUCING]
    return words[places[-1] + 1 :] if places else words[-_NEAR:]
