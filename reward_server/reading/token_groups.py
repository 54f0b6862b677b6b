"""Splits tokens at separators that stand outside of all brackets."""

from collections.abc import Sequence

from reward_server.reading.tokens import CLOSING, COMMAND_ENDS, OPENING, Token

_TERM_ENDS = frozenset({",", ";", "or", ":", "=", "<", ">", ")", "]", "}", r"\}", "+", "-", r"\rangle", "&"})


def is_sign(token: Token, *signs: str) -> bool:
    """Whether a token is one of these signs."""
    return token.kind == "sign" and token.text in signs


def split_at(tokens: Sequence[Token], *separators: str) -> list[list[Token]]:
    """Split at separators outside of all brackets."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in OPENING) - (token.text in CLOSING)
        if depth == 0 and is_sign(token, *separators):
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def is_end(token: Token) -> bool:
    """Whether a token ends a term."""
    return token.text in _TERM_ENDS or token.text in COMMAND_ENDS or token.text == ""
