r"""Reads numbers that are more than digits: repeating decimals, numbers in another base, and mixed numbers."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from reward_server.algebra.nodes import Number
from reward_server.reading.tokens import Token, Unreadable
from reward_server.vocabulary import BASES

MAX_DIGITS = 200
MAX_LENGTH = 12
"""Tokens of a numeral with letters; a longer sequence of letters and numbers is a product."""


class Numeral(NamedTuple):
    """A number, and how many tokens it takes."""

    node: Number
    length: int


def repeating(tokens: Sequence[Token], start: int) -> Numeral:
    r"""The number that begins at a token, with the digits that repeat: `0.1\overline{6}`, `0.\dot{1}\dot{8}`, `0.1(6)`.

    Raises:
        Unreadable: It has too many digits.
    """
    text = tokens[start].text
    plain = Numeral(Number(exact_number(text), "." in text), 1)
    position = start + 1
    if "." not in text:
        if not _is(tokens, position, ".") or not _is_period(tokens, position + 1):
            return plain
        text += "."
        position += 1
    if not _is_period(tokens, position):
        return plain
    dotted = tokens[position].text == r"\dot"
    period, position = _period(tokens, position)
    if dotted:
        # Dots mark the first and the last digit that repeats.
        middle, after = (tokens[position].text, position + 1) if _is_digits(tokens, position) else ("", position)
        if _is(tokens, after, r"\dot"):
            last, position = _digits(tokens, after + 1)
            period += middle + last
    if not period or _is_digits(tokens, position):
        return plain
    decimals = text.partition(".")[2]
    fraction = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(decimals))
    return Numeral(Number(Fraction(text.rstrip(".") or "0") + fraction), position - start)


def exact_number(text: str) -> Fraction:
    """The value of a number token.

    Raises:
        Unreadable: It has too many digits.
    """
    if len(text) > MAX_DIGITS:
        raise Unreadable(f"a number of {len(text)} digits")
    return Fraction(text)


def _is(tokens: Sequence[Token], position: int, text: str) -> bool:
    return position < len(tokens) and tokens[position].text == text


def _is_period(tokens: Sequence[Token], position: int) -> bool:
    return bool(_period(tokens, position)[0])


def _period(tokens: Sequence[Token], position: int) -> tuple[str, int]:
    """Digits that repeat, and the position behind them; blank if there are none."""
    if _is(tokens, position, r"\overline") or _is(tokens, position, r"\dot"):
        return _digits(tokens, position + 1)
    if _is(tokens, position, "(") and not tokens[position].spaced and _is_digits(tokens, position + 1):
        return (tokens[position + 1].text, position + 3) if _is(tokens, position + 2, ")") else ("", position)
    return "", position


def _is_digits(tokens: Sequence[Token], position: int) -> bool:
    """Whether a token is a number of digits only, not too many of them."""
    if position >= len(tokens) or tokens[position].kind != "number":
        return False
    return tokens[position].text.isdecimal() and len(tokens[position].text) <= MAX_DIGITS


def _digits(tokens: Sequence[Token], position: int) -> tuple[str, int]:
    """The digits at a position, with or without braces, and the position behind them; blank if there are none."""
    if _is_digits(tokens, position) and len(tokens[position].text) == 1:
        return tokens[position].text, position + 1
    if _is(tokens, position, "{") and _is_digits(tokens, position + 1) and _is(tokens, position + 2, "}"):
        return tokens[position + 1].text, position + 3
    return "", position


def base_of(index: str) -> int:
    r"""The base that an index names: `8`, `two`, `\text{hex}`.

    Raises:
        Unreadable: It names no base from 2 to 36.
    """
    plain = index.strip("() ").lower()
    base = BASES.get(plain, int(plain) if plain.isdecimal() and len(plain) <= 2 else 0)
    if not 2 <= base <= 36:
        raise Unreadable(f"{index!r} is no number base")
    return base


def in_base(tokens: Sequence[Token], end: int, base: int, start: int = -1) -> Fraction:
    """The value of the digits that end at a token, in a base. Brackets around them are allowed.

    Letters are digits if the numeral is known to begin at the token `start`.

    Raises:
        Unreadable: They are no digits in this base.
    """
    position = end
    if _is(tokens, position, ")"):
        position -= 1
    digits = ""
    while position >= max(start, 0) and (
        (start >= 0 and tokens[position].kind in ("letter", "run")) or _is_digits(tokens, position)
    ):
        digits = tokens[position].text + digits
        position -= 1
    try:
        return Fraction(int(digits, base))
    except ValueError as error:
        raise Unreadable(f"{digits!r} is no number in base {base}") from error


def hexadecimal(tokens: Sequence[Token], start: int) -> int:
    r"""How many tokens from `start` are digits and letters that an index behind them makes a number, as in `2A_{16}`.

    0 if there are no such tokens, if they hold no letter, or if they hold no digit and the index is not 16.
    """
    position = start
    while position < min(len(tokens), start + MAX_LENGTH) and (
        (_is_letter_digit(tokens[position]) and not (position > start and tokens[position].spaced))
        or _is_digits(tokens, position)
    ):
        position += 1
    if position == start or not _is(tokens, position, "_") or not _is_large_base(tokens, position + 1):
        return 0
    digits = "".join(token.text for token in tokens[start:position])
    mixed_digits = not digits.isdigit() and not digits.isalpha()
    sixteen = len(digits) > 1 and digits.isalpha() and _is_sixteen(tokens, position + 1)
    return position - start if mixed_digits or sixteen else 0


def _is_letter_digit(token: Token) -> bool:
    return token.kind in ("letter", "run") and (token.upright or token.text.isupper())


def _is_large_base(tokens: Sequence[Token], position: int) -> bool:
    """Whether an index begins with a base that has letters for digits."""
    texts = [token.text for token in tokens[position : position + 2] if token.text != "{"]
    base = texts[0].strip("() ").lower() if texts else ""
    return BASES.get(base, int(base) if base.isdecimal() and len(base) <= 2 else 0) > 10


def _is_sixteen(tokens: Sequence[Token], position: int) -> bool:
    return _is(tokens, position, "{") and _is(tokens, position + 1, "16") and _is(tokens, position + 2, "}")


def mixed(tokens: Sequence[Token], start: int) -> Numeral | None:
    r"""The mixed number that begins at a token: `1\frac{1}{2}` or `1 1/2`. None if there is none."""
    if not _is_digits(tokens, start):
        return None
    if _is(tokens, start + 1, r"\frac"):
        top, position = _digits_or_first(tokens, start + 2, "")
        bottom, position = _digits_or_first(tokens, position, top)
    elif _is_digits(tokens, start + 1) and tokens[start + 1].spaced and _is(tokens, start + 2, "/"):
        if not _is_digits(tokens, start + 3):
            return None
        top, bottom, position = tokens[start + 1].text, tokens[start + 3].text, start + 4
    else:
        return None
    if not top or not bottom or int(bottom) == 0:
        return None
    return Numeral(Number(int(tokens[start].text) + Fraction(int(top), int(bottom))), position - start)


def _digits_or_first(tokens: Sequence[Token], position: int, before: str) -> tuple[str, int]:
    r"""An argument of `\frac`: digits in braces, or one digit. In `\frac12`, one token has both; `before` is the 1."""
    found, end = _digits(tokens, position)
    if found or not _is_digits(tokens, position):
        return found, end
    text = tokens[position].text
    if len(text) != 2:
        return "", position
    return (text[1], position + 1) if before else (text[0], position)
