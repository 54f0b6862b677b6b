"""Names that stand left of an equals sign: what an answer is called, and not what it is.

A name is one letter with an index, primes, or an argument if it is a letter for functions; points in capitals; words;
or a few of these with signs that calculate nothing. Functions with a meaning of their own, products and the number pi
are no names, whatever the answer says that they are equal to. The letters e and i may be (an eccentricity, a rate).
"""

from collections.abc import Sequence
from itertools import accumulate

from reward_server.reading.token_groups import is_sign, split_at
from reward_server.reading.tokens import CLOSING, OPENING, Token
from reward_server.vocabulary import GREEK, changes_meaning, plain_words

MAX_DEPTH = 4
"""Names in names, such as the letters in a tuple; deeper ones are no names."""
_CONSTANTS = frozenset({r"\pi", r"\infty"})
_GENERAL = frozenset("fghpqFGHPQTE") | {r"\phi", r"\psi", r"\Phi", r"\varphi"}
"""Letters for functions of anything; other letters are factors of a sum in brackets."""
_FUNCTIONS = _GENERAL | frozenset("DIJKLMNRSUVW") | {r"\Psi", r"\Gamma", r"\sigma", r"\mu", r"\tau"}
"""Letters for functions of a letter or number. Others are factors: `x(2)` is 2x."""
_PROBABILITIES = frozenset({"P", "E", r"\Pr", r"\mathbb{P}", r"\mathbb{E}"})
"""Probabilities and expectations, of anything in brackets: `P(X>2)`, `E[X]`."""
_OF_POINTS = frozenset({r"\angle", r"\triangle", r"\overline", r"\vec", r"\hat"})
_EXTREMES = frozenset({r"\max", r"\min"})
_LETTERS = GREEK | {r"\square", r"\Box", r"\triangle", r"\bigcirc", r"\star"}
"""Commands that are a letter, or a place for one."""


def name_of(tokens: Sequence[Token], value: Sequence[Token] = ()) -> str:
    r"""The name that a side consists of, such as `x`, `f(x)`, `AB`, `S_{\max}` or `\angle ABC`; else blank.

    Any letter is a function if `value`, the other side, has its argument: `v(t) = 2t`.
    """
    named = _is_name(tokens, MAX_DEPTH) or _is_function_of(tokens, value)
    return _text(tokens).replace("{", "").replace("}", "") if named else ""


def _is_function_of(tokens: Sequence[Token], value: Sequence[Token]) -> bool:
    behind = tokens[1 + _indices(tokens[1:]) :]
    if len(behind) != 3 or not _is_one_bracket(behind) or not _is_letter_with_marks(tokens[: len(tokens) - 3]):
        return False
    letters = {letter for token in value if token.kind in ("letter", "run") for letter in token.text}
    return behind[1].kind == "letter" and behind[1].text in letters - {tokens[0].text}


def _text(tokens: Sequence[Token]) -> str:
    if is_sign(tokens[0], "|"):
        tokens = [token for token in tokens if not is_sign(token, "|")]
    glue = " " if tokens[0].kind == "words" else ""
    return glue.join(" ".join(plain_words(token.text)) if token.kind == "words" else token.text for token in tokens)


def _is_name(tokens: Sequence[Token], depth: int) -> bool:
    if not tokens or not depth:
        return False
    first, rest = tokens[0], tokens[1:]
    terms = split_at(tokens, ":")
    if len(terms) > 1:
        return all(_is_name(term, depth - 1) for term in terms)
    if is_sign(first, "|"):
        return _is_length(tokens)
    if is_sign(first, "(") and is_sign(tokens[-1], ")"):
        inner = split_at(tokens[1:-1], ",")
        return len(inner) > 1 and all(_is_name(part, depth - 1) for part in inner)
    if is_sign(first, "["):
        area = len(tokens) == 3 and is_sign(tokens[2], "]")  # of the triangle in `[ABC]`
        return area and tokens[1].kind == "run" and tokens[1].text.isupper()
    if first.kind == "words":
        return not changes_meaning(first.text) and _is_named_by_words(rest)
    if first.text in _PROBABILITIES and _is_one_bracket(rest):
        return True
    if first.text == "m" and rest and rest[0].text == r"\angle":
        return _is_name(rest, depth - 1)  # the measure of an angle
    if first.text in _EXTREMES:
        behind = rest[_indices(rest) :]
        of_one = _is_one_bracket(behind) and len(split_at(behind[1:-1], ",")) == 1
        return not behind or of_one or _is_name(behind, depth - 1)
    if first.text in _OF_POINTS and rest:
        return _is_points(rest) and (rest[0].kind != "number" or first.text == r"\angle")
    if first.kind == "run":
        return first.text.isupper() and _indices(rest) == len(rest)
    return _is_letter_with_marks(tokens)


def _is_length(tokens: Sequence[Token]) -> bool:
    """Whether tokens are a length such as |AB| with an index, but not the absolute value of a letter."""
    end = next((index for index in range(1, len(tokens)) if is_sign(tokens[index], "|")), 0)
    inner, behind = tokens[1:end], tokens[end + 1 :]
    if not inner or _indices(behind) != len(behind):
        return False
    return _is_points(inner[1:]) if inner[0].text in _OF_POINTS else inner[0].text.isupper() and _is_points(inner)


def _is_named_by_words(tokens: Sequence[Token]) -> bool:
    """Whether what stands behind words can be no factor: an index, points, an argument in brackets, or more words."""
    behind = tokens[_indices(tokens) :]
    if not behind or (behind[0].kind == "words" and all(token.kind == "words" for token in behind)):
        return not any(changes_meaning(token.text) for token in behind)
    if behind[0].text in _OF_POINTS:
        return _is_points(behind[1:])
    inner = behind[1:-1] if _is_one_bracket(behind) else behind
    return _is_points(inner) and (inner is not behind or inner[0].text.isupper())


def _is_points(tokens: Sequence[Token]) -> bool:
    r"""Whether tokens are nothing but letters with indices and primes, or one number, in braces or not: `A_1BC`."""
    if len(tokens) > 2 and is_sign(tokens[0], "{") and _after_group(tokens, 0) == len(tokens):
        tokens = tokens[1:-1]
    elif any(token.kind in ("letter", "run") and not token.text.isupper() for token in tokens[1:]):
        return False  # `\vec a b` is a product
    if len(tokens) == 1 and tokens[0].kind == "number":
        return True  # `\angle 1`
    position = 0
    while position < len(tokens):
        if tokens[position].kind not in ("letter", "run") and tokens[position].text not in GREEK:
            return False
        position += 1 + _indices(tokens[position + 1 :])
    return bool(tokens)


def _is_letter_with_marks(tokens: Sequence[Token]) -> bool:
    """Whether tokens are one letter with an index, primes, or an argument in brackets."""
    letter = tokens[0].text
    if tokens[0].kind == "command" and letter not in _LETTERS:
        return False
    if tokens[0].kind not in ("letter", "command") or (letter in _CONSTANTS and not _indices(tokens[1:])):
        return False
    behind = tokens[1 + _indices(tokens[1:]) :]
    if letter in _FUNCTIONS and [token.text for token in behind[:5]] == ["^", "{", "-", "1", "}"]:
        behind = behind[5:]  # an inverse function
    if not behind:
        return True
    if not _is_one_bracket(behind) or behind[0].text != "(":
        return False
    if letter not in _FUNCTIONS and len(split_at(behind[1:-1], ",")) == 1:
        return False  # but there are no products with several letters in a bracket: `d(A,B)`
    sums = letter in _GENERAL
    return all(
        token.kind in ("letter", "number", "run", "command")
        or is_sign(token, ",", "_", "{", "}", "|")
        or (sums and is_sign(token, "+", "-"))
        for token in behind[1:-1]
    )


def _indices(tokens: Sequence[Token]) -> int:
    """How many tokens at the beginning are primes and indices."""
    position = 0
    while position < len(tokens):
        if is_sign(tokens[position], "'"):
            position += 1
        elif is_sign(tokens[position], "_") and position + 1 < len(tokens):
            position = _after_group(tokens, position + 1)
        else:
            break
    return position


def _is_one_bracket(tokens: Sequence[Token]) -> bool:
    """Whether tokens are something in a bracket that closes with the last of them."""
    if len(tokens) < 3 or not is_sign(tokens[0], "(", "[", r"\{"):
        return False
    depth = list(accumulate((token.text in OPENING) - (token.text in CLOSING) for token in tokens))
    return depth[-1] == 0 and 0 not in depth[:-1]


def _after_group(tokens: Sequence[Token], position: int) -> int:
    """The position behind a group in braces, or behind a single token."""
    depth = 0
    while position < len(tokens):
        depth += (tokens[position].text == "{") - (tokens[position].text == "}")
        position += 1
        if depth <= 0:
            break
    return position
