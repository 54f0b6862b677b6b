"""Conditions behind an answer: for which numbers it holds."""

from collections.abc import Sequence
from itertools import pairwise

from reward_server.reading.token_groups import is_sign, split_at
from reward_server.reading.tokens import CLOSING, OPENING, Token, Unreadable
from reward_server.vocabulary import GREEK, QUALIFIERS, plain_words

RELATIONS = frozenset(
    {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx", r"\equiv", r"\mid", r"\notin", r"\subset"}
)
_PARTIAL = frozenset(
    {"positive", "negative", "nonnegative", "non-negative", "even", "odd", "prime", "nonzero", "non-zero"}
)
"""Words that leave only some of the integers."""
_BOUNDS = frozenset({"<", ">", r"\le", r"\ge", r"\ne"})
_DOUBTING = frozenset({"if", "when", "whenever", "provided", "given", "let"})
"""Words behind which something is said of a letter; without one, they take the answer back: `3 if it works`."""
_BRANCHES = frozenset({"if", "when", "where", "otherwise", "for"})


def take_condition(tokens: list[Token]) -> tuple[list[Token], list[Token]]:
    r"""Separate a condition at the end: `\text{ for all } x`, `\forall x`, `(x > 0)`, `, k \in \mathbb{Z}`.

    Returns:
        The rest, and the condition; empty if there is none.
    """
    depth = 0
    for index, token in enumerate(tokens):
        if depth == 0 and index > 0 and _begins_condition(tokens, index):
            rest = tokens[:index]
            while rest and is_sign(rest[-1], ",", ";"):
                rest = rest[:-1]
            _check(rest, tokens[index:])
            return rest, tokens[index:]
        depth += (token.text in OPENING) - (token.text in CLOSING)
    return tokens, []


def _begins_condition(tokens: list[Token], index: int) -> bool:
    """Whether what stands from a token on, outside of brackets, is a condition."""
    token = tokens[index]
    if token.kind == "words" or (token.kind == "run" and token.spaced):
        return bool(QUALIFIERS.intersection(plain_words(token.text)[:1]))
    if token.kind == "command":
        return token.text == r"\forall"
    if not is_sign(token, ",", "("):
        return False
    if _has_number_set(tokens[index + 1 : index + 4]):
        return True
    if token.text == "(":
        return index > 1 and _is_bracketed_relation(tokens[index:])
    return _bounds_a_letter(tokens[:index], tokens[index + 1 :])


def _check(answer: Sequence[Token], condition: Sequence[Token]) -> None:
    """Refuse a condition that holds a second value, or a second condition for it.

    Raises:
        Unreadable: It does, or it gives another value to the name of the answer.
    """
    words = [plain_words(token.text)[0] for token in condition if token.kind == "words" and plain_words(token.text)]
    if words[:1] == ["as"] and not any(token.text in (r"\to", r"\rightarrow") for token in condition):
        raise Unreadable("a condition without a limit")
    if any(token.kind == "words" and {"else", "otherwise"} & set(plain_words(token.text)) for token in condition):
        raise Unreadable("a second value with a condition")
    if any(first.kind == second.kind == "number" for first, second in pairwise(condition)):
        raise Unreadable("a value behind a condition")
    if words[:1] and words[0] in _DOUBTING and not any(_is_said_of(token) for token in condition):
        raise Unreadable("a condition on nothing")
    for number, part in enumerate(split_at(condition, ",", ";", "or")):
        related = any(token.text in RELATIONS or token.text in ("|", r"\to", r"\rightarrow") for token in part)
        begins = [token for token in part if token.kind in ("words", "run") and token.text.split()]
        first = plain_words(begins[0].text)[:1] if begins else []
        if number and first and first[0] in _BRANCHES and part[0] is not begins[0]:
            raise Unreadable("a second value with a condition")
        if not related and any(token.kind == "number" for token in part) and len(begins) < 2:
            raise Unreadable("a value in a condition")
        texts = [token.text for token in part if token.kind != "words"]
        named = [token.text for token in answer[:2]]
        if named[1:] == ["="] and (texts[:2] == named or texts[-2:] == named[::-1]):
            raise Unreadable("a second value of a name")


def _is_said_of(token: Token) -> bool:
    """Whether a token of a condition says what it is about: a letter, or a relation."""
    letter = token.kind in ("letter", "run") or token.text in GREEK or token.text in RELATIONS
    return letter or (token.kind == "words" and any(len(word) == 1 and word != "a" for word in plain_words(token.text)))


def _bounds_a_letter(before: Sequence[Token], behind: Sequence[Token]) -> bool:
    """Whether behind a comma there is only an inequality with a letter of what is before it: `2x, x>0`.

    Not if there is an inequality before the comma: then both are answers.
    """
    if any(is_sign(token, ",", ";", "or") for part in (behind, before) for token in part):
        return False
    signs = {token.text for token in behind if token.text in RELATIONS}
    letters = {token.text for token in behind if token.kind == "letter"}
    known = {letter for token in before if token.kind in ("letter", "run") for letter in token.text}
    return (
        bool(signs)
        and signs <= _BOUNDS
        and bool(letters)
        and letters <= known
        and not any(token.text in _BOUNDS for token in before)
        and not any(token.kind == "words" for token in behind)
    )


def _has_number_set(tokens: Sequence[Token]) -> bool:
    return (
        len(tokens) >= 3
        and tokens[0].kind in ("letter", "command")
        and tokens[1].text == r"\in"
        and _number_set(tokens[2].text) != ""
    )


def _number_set(text: str) -> str:
    return text if text.startswith(r"\mathbb") else rf"\mathbb{{{text}}}" if text in ("N", "Z", "Q", "R") else ""


def parameter_of(condition: Sequence[Token]) -> tuple[str, str]:
    r"""The only letter of a condition and the kind of number that it is: `k` and `\mathbb{Z}`; else blanks."""
    found = [
        index
        for index, token in enumerate(condition)
        if (token.kind == "letter" or token.kind == "command") and token.text not in (r"\in", r"\forall")
    ]
    texts = [token.text for token in condition]
    if len(found) == 2 and texts[found[0] + 1 : found[1]] == [r"\in"]:
        rest = texts[found[1] + 1 :]
        return texts[found[0]], _number_set(texts[found[1]]) if rest in ([], [")"]) else "".join(texts[found[1] :])
    words = {word for token in condition if token.kind == "words" for word in plain_words(token.text)}
    whole = len(found) == 1 and words & {"integer", "integers"} and not words & _PARTIAL
    return (texts[found[0]], r"\mathbb{Z}") if whole else ("", "")


def _is_bracketed_relation(tokens: Sequence[Token]) -> bool:
    """Whether the tokens are a single bracket, up to the end, with a relation in it and no comma."""
    end = next((index for index in range(1, len(tokens)) if tokens[index].text in ("(", ")", ",")), 0)
    return tokens[end].text == ")" and end == len(tokens) - 1 and any(token.text in RELATIONS for token in tokens)


def text_of(tokens: Sequence[Token]) -> str:
    """A condition as text, without the words; blank if it has no relation but that to a set of numbers."""
    signs = {token.text for token in tokens if token.text in RELATIONS or token.text in (r"\mid", r"\equiv", "|")}
    if signs <= {r"\in"}:
        restricting = ("even", "odd", "prime", "positive", "negative", "nonnegative", "integer", "integers")
        words = [word for token in tokens if token.kind in ("words", "run") for word in plain_words(token.text)]
        return " ".join(word for word in words if word in restricting[:3])
    dropped = ("(", ")", r"\forall", r"\text")
    kept = [token for token in tokens if token.kind != "words" and token.text not in dropped]
    return "".join(_turned(part) for part in split_at(kept, ","))


def _turned(part: Sequence[Token]) -> str:
    """One condition as text; `x>0` and `0<x` have the same."""
    texts = [token.text for token in part]
    signs = [index for index, text in enumerate(texts) if text in RELATIONS]
    if len(signs) == 1 and texts[signs[0]] in (">", r"\ge"):
        sign = "<" if texts[signs[0]] == ">" else r"\le"
        texts = [*texts[signs[0] + 1 :], sign, *texts[: signs[0]]]
    return "".join(texts)
