"""Names that stand left of an equals sign: what an answer is called, and not what it is."""

from collections.abc import Sequence
from itertools import accumulate

from reward_server.reading.token_groups import is_sign, split_at
from reward_server.reading.tokens import CLOSING, OPENING, Token
from reward_server.reading.vocabulary import changes_meaning, plain_words

_IN_ARGUMENTS = (",", "_", "+", "-", "{", "}", "|")
_FUNCTIONS = frozenset("fghFGHPQTE") | {r"\phi", r"\psi", r"\Phi", r"\varphi"}
"""Letters that a sum in brackets is the argument of; behind other letters, it is a factor."""
_PROBABILITIES = frozenset({"P", "E", r"\Pr", r"\mathbb{P}", r"\mathbb{E}"})
"""Probabilities and expectations, of anything in brackets: `P(X>2)`, `E[X]`."""
_COMMANDS = frozenset({r"\angle", r"\triangle", r"\overline", r"\vec", r"\max", r"\min", r"\hat", r"\square"})


def name_of(tokens: Sequence[Token]) -> str:
    r"""The name that a side consists of, such as `x`, `f(x)`, `AB`, `S_{\max}` or `\angle ABC`; else blank."""
    return _written(tokens).replace("{", "").replace("}", "")


def _written(tokens: Sequence[Token]) -> str:
    if tokens and is_sign(tokens[0], "|"):
        tokens = [token for token in tokens if not is_sign(token, "|")]
        if not tokens or not (tokens[0].text.isupper() or tokens[0].text in _COMMANDS):
            return ""  # a length such as |AB|, but not the absolute value of a letter
    if not tokens:
        return ""
    if any(is_sign(token, ":") for token in tokens):
        return "".join(token.text for token in tokens) if all(map(name_of, split_at(tokens, ":"))) else ""
    first = tokens[0]
    if first.text in (r"\pi", r"\infty"):
        return ""
    texts = [" ".join(plain_words(token.text)) if token.kind == "words" else token.text for token in tokens]
    if first.kind == "words":
        named = not changes_meaning(first.text) and all(token.kind in ("words", "letter", "sign") for token in tokens)
        return " ".join(texts) if named and not {"+", "*", "/", "^", "-"} & set(texts) else ""
    if is_sign(first, "(") and is_sign(tokens[-1], ")"):
        inner = split_at(tokens[1:-1], ",")
        return "".join(texts) if len(inner) > 1 and all(name_of(part) for part in inner) else ""
    if first.text in _PROBABILITIES and _is_one_bracket(tokens[1:]):
        return "".join(texts)
    if first.text == "m" and len(tokens) > 1 and tokens[1].text == r"\angle":
        return name_of(tokens[1:])  # the measure of an angle
    if first.text in _COMMANDS:
        return "".join(texts) if all(_may_be_named(token) for token in tokens) else ""
    if first.kind == "run":
        return "".join(texts) if first.text.isupper() and all(_may_be_named(token) for token in tokens) else ""
    sums = any(is_sign(token, "+", "-") for token in _argument_of(tokens))
    if sums and first.kind in ("letter", "command") and first.text not in _FUNCTIONS:
        return ""  # a product
    if first.kind == "letter" or (first.kind == "command" and len(tokens) == 1):
        return "".join(texts) if _is_indexed(tokens[1:]) else ""
    if first.kind == "command" and _is_indexed(tokens[1:]) and tokens[1].text in ("_", "("):
        return "" if first.text in (r"\log", r"\ln", r"\frac", r"\sqrt", r"\sin", r"\cos", r"\tan") else "".join(texts)
    return ""


def _is_one_bracket(tokens: Sequence[Token]) -> bool:
    """Whether tokens are something in a bracket that closes with the last of them."""
    if len(tokens) < 3 or not is_sign(tokens[0], "(", "["):
        return False
    depth = list(accumulate((token.text in OPENING) - (token.text in CLOSING) for token in tokens))
    return depth[-1] == 0 and 0 not in depth[:-1]


def _argument_of(tokens: Sequence[Token]) -> Sequence[Token]:
    """The tokens from the first bracket on."""
    start = next((index for index, token in enumerate(tokens) if is_sign(token, "(")), len(tokens))
    return tokens[start:]


def _may_be_named(token: Token) -> bool:
    return token.kind in ("letter", "run", "number", "command") or is_sign(token, "{", "}", "_", "(", ")", "'")


def _is_indexed(tokens: Sequence[Token]) -> bool:
    """Whether tokens behind a letter are nothing but an index, a prime, or an argument in brackets."""
    position = 0
    while position < len(tokens):
        text = tokens[position].text
        if text == "'":
            position += 1
        elif [token.text for token in tokens[position : position + 5]] == ["^", "{", "-", "1", "}"]:
            position += 5  # an inverse function
        elif text == "_" and position + 1 < len(tokens):
            position = _after_group(tokens, position + 1)
        elif text == "(" and tokens[-1].text == ")":
            inner = tokens[position + 1 : -1]
            return bool(inner) and all(
                token.kind in ("letter", "number", "run", "command")
                or is_sign(token, ",", "_", "+", "-", "{", "}", "|")
                for token in inner
            )
        else:
            return False
    return True


def _after_group(tokens: Sequence[Token], position: int) -> int:
    if tokens[position].text != "{":
        return position + 1
    depth = 0
    while position < len(tokens):
        depth += (tokens[position].text == "{") - (tokens[position].text == "}")
        position += 1
        if depth == 0:
            break
    return position
