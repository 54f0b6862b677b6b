r"""Answers that are text: words, lists of words, dates and other codes, ranges, and what has an ellipsis."""

import re
from collections.abc import Sequence
from fractions import Fraction

from reward_server.algebra.nodes import Items, Node, Number, Words
from reward_server.reading.tokens import Token
from reward_server.vocabulary import ANSWER_WORDS, NUMBER_WORDS, plain_words

_CODE = re.compile(
    r"""
    \d{4}([-/.])\d{1,2}\1\d{1,2} | \d{1,2}([-/.])\d{1,2}\2\d{4}            # a date
    | (?=(?:.*[-/])?0\d) (?:\d+(?:-\d+)+ | \d+(?:/\d+)+)                     # a part begins with 0
    | (?:\d{3}-)?\d{3}-\d{4}                                                # a telephone number
    | \d+(?:\.\d+){2,}                                                      # a version
    """,
    re.VERBOSE,
)
"""Digits with signs that are no sum and no quotient."""
_ORDERS = frozenset({"<", ">", "=", r"\le", r"\ge"})
"""Signs that are a whole answer: which of two numbers is larger."""
_ELLIPSIS = re.compile(r"\\[lcv]?dots[a-z]?|\.\.\.|…")
_RANGE = re.compile(r"[\s$]*\d+(?:\.\d+)?[–—]\d+(?:\.\d+)?[\s$.]*")
"""Numbers joined by a dash that is no minus sign and no hyphen."""
_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm|mathbf)\s*\{([^{}]*)\}")
_WORD = re.compile(r"[^\W\d_]+(?:['’.-]+[^\W\d_]+)*\.?")
_LETTERS = re.compile(r"[^\W\d_]+")
_IN_PHRASES = frozenset({",", "or", "-", ":", ".", "'", "(", ")"})
_VOWELS = frozenset("aeiou")


def is_range(text: str) -> bool:
    """Whether a text, before `unify`, is two numbers with a dash between them: `5–7`, which is not -2."""
    return not text.isascii() and _RANGE.fullmatch(text) is not None


def literal_text(text: str) -> str:
    """What a text is compared as if it is a sign, a date or the like, or has an ellipsis; else blank."""
    if text in _ORDERS or _CODE.fullmatch(text.strip()):
        return text.strip()
    return "".join(_ELLIPSIS.sub("...", text).split()) if _ELLIPSIS.search(text) else ""


def whole_words(text: str) -> str:
    """A text that consists of words only, with the commas between them; else blank."""
    plain = _TEXT.sub(r" \1 ", text).strip(" ()")
    plain = plain.replace("\\ ", " ").replace("~", " ").strip(" .,;:!()")
    words = [word.rstrip(",;") for word in plain.split()]
    if not all(map(_is_word, words)) or all(len(word) == 1 for word in words if word not in ("and", "or")):
        return ""
    return " ".join(word.strip(".") for word in plain.split())


def _is_word(text: str) -> bool:
    """Whether a text may be a word; one with a hyphen needs a part that can be no product: `x-axis`, but not `a-b`."""
    return _WORD.fullmatch(text) is not None and ("-" not in text or any(len(part) > 2 for part in text.split("-")))


def is_text(text: str) -> bool:
    """Whether a text of words is certainly text, and not a product of letters."""
    if any(len(found.strip()) > 1 for found in _TEXT.findall(text)):
        return True
    words = _LETTERS.findall(_TEXT.sub(r"\1", text))
    if any(not word.isascii() for word in words):
        return True
    if len(words) == 1:
        word = words[0]
        return word.lower() in ANSWER_WORDS or (len(word) > 2 and word[0].isupper() and word[1:].islower())
    return any(len(word) > 2 for word in words)


def has_order(words: str) -> bool:
    """Whether letters of a text are a word, or a name of several capitals, rather than a product in any order.

    A word of small letters has a vowel, and is more than letters that follow each other in the alphabet, or a product
    with the imaginary unit.
    """
    found = [word for word in _LETTERS.findall(words) if len(word) > 1]
    return any(word.isupper() or _is_pronounced(word.strip("i")) for word in found)


def _is_pronounced(word: str) -> bool:
    return len(word) > 2 and bool(_VOWELS & set(word)) and not _is_alphabetical(word)


def _is_alphabetical(word: str) -> bool:
    return [ord(letter) - ord(word[0]) for letter in word] == list(range(len(word)))


def words_of(text: str, certain: bool) -> list[Node]:
    """Words, or a list of words if commas, "and" or "or" separate them; and the number that a word means.

    Args:
        text: From `whole_words`.
        certain: Whether they are no product of letters.
    """
    parts = [part.strip() for part in re.split(r"[,;]\s*(?:and |or )?| and | or ", text)]
    words = [Words(part.lower(), "" if certain else part) for part in parts if part]
    if len(words) != 1:
        return [Items("", "", tuple(words))]
    number = NUMBER_WORDS.get(words[0].text)
    return [words[0], Number(Fraction(number))] if number else [words[0]]


def phrase_of(tokens: Sequence[Token]) -> str:
    """Words and numbers, in order, of a text that has words but is no expression: `june 20`, `2 or more`."""
    if not any(token.kind in ("words", "run") for token in tokens):
        return ""
    texts = []
    for token in tokens:
        if token.kind == "command" or (token.kind == "sign" and token.text not in _IN_PHRASES):
            return ""
        texts.extend(plain_words(token.text) if token.kind in ("words", "run") else [token.text.lower()])
    return " ".join(text for text in texts if text not in (",", ".", "(", ")"))
