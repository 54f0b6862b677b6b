r"""Writes tokens back as LaTeX for the parser, so that nothing in it meets one of the parser's lossy rules.

math-verify 0.9.0 with latex2sympy2_extended 1.11.0 takes letters of either case for the same letter, drops upright
letters and words at the end, and adds two integers that stand side by side in a product. None of the three can be
switched off from outside, so letters that clash are renamed, upright letters become plain, words that are no unit are
refused, and products get a sign.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from reward_server.reading.tokens import DEGREE, Token, Unreadable
from reward_server.vocabulary import changes_number

_SPARE = "abcdfghjklmnopqrstuvwxyz"
_CONSTANTS = frozenset({"e", "i"})
_PARSED = re.compile(
    r"\\(?:frac|sqrt|binom|sum|prod|i?int|oint|lim|to|infty|pi|cup|cap|in|le|ge|ne|approx|pm|mp|begin\{.*\}|end\{.*\}|"
    r"lfloor|rfloor|lceil|rceil|det|sin|cos|tan|cot|sec|csc|arc(?:sin|cos|tan)|sinh|cosh|tanh|ln|log|exp|gcd|lcm|max|min|"
    r"alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|phi|chi|psi|omega|"
    r"Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|emptyset|\{|\}|\\|pmod|bmod|setminus|langle|rangle)"
)
"""Commands of which the parser makes something. It skips others, and would read `4 \\heartsuit` as 4."""
_SIGNS = frozenset("+-*/^_(){}[]=<>|!,;:&%") | {DEGREE, "or"}
_WRITTEN = {"%": r"\%", DEGREE: r"^{\circ}", "or": r"\text{ or }", "*": r"\cdot "}


def letters_of(tokens: Iterable[Token]) -> set[str]:
    """All letters of an expression, but those of commands and of words."""
    return {letter for token in tokens if token.kind in ("letter", "run") for letter in token.text if letter.isalpha()}


def clashing_letters(letters: set[str]) -> dict[str, str]:
    """New names for capital letters that occur in lower case as well.

    Raises:
        Unreadable: No letters are left for names.
    """
    capitals = sorted(letter for letter in letters if letter.isupper() and letter.lower() in letters)
    free = [letter for letter in _SPARE if letter not in {one.lower() for one in letters}]
    if len(free) < len(capitals):
        raise Unreadable("too many letters in both cases")
    return dict(zip(capitals, free, strict=False))


def render(tokens: Sequence[Token], names: Mapping[str, str]) -> str:
    """The tokens as LaTeX, without a unit at the end.

    Raises:
        Unreadable: There are words that may change the meaning, or that are no unit at the end.
    """
    kept = list(tokens)
    while kept and kept[-1].kind == "words" and len(kept) > 1:
        words = kept.pop().text
        if changes_number(words):
            raise Unreadable(f"{words!r} behind an expression")
    pieces: list[str] = []
    integral = any(token.text in (r"\int", r"\iint", r"\oint") for token in kept)
    for index, token in enumerate(kept):
        if token.kind == "words":
            raise Unreadable(f"{token.text!r} inside of an expression")
        if not _is_parsed(token):
            raise Unreadable(f"the {'command' if token.kind == 'command' else 'sign'} {token.text}")
        script = index > 1 and kept[index - 2].text in ("^", "_")
        if script and token.kind == "number":
            pieces.append(" ")
        elif index and kept[index - 1].kind == token.kind == "number":
            raise Unreadable("two numbers side by side")
        if index and kept[index - 1].text == token.text == "!":
            raise Unreadable("a double factorial")  # which the parser takes for the factorial of a factorial
        if index and not script and _is_product(kept[index - 1], token):
            pieces.append(r"\cdot ")
        differential = integral and token.kind == "run" and len(token.text) == 2 and token.text[0] == "d"
        pieces.append(f"d{names.get(token.text[1], token.text[1])} " if differential else _write(token, names))
    return "".join(pieces).strip()


def _is_parsed(token: Token) -> bool:
    if token.kind == "command":
        return _PARSED.fullmatch(token.text) is not None
    return token.kind != "sign" or token.text in _SIGNS


def _is_product(before: Token, token: Token) -> bool:
    """Whether two tokens are factors that the parser might add."""
    closes = before.kind == "number" or before.text in (")", "!")
    opens = token.kind == "number" or token.text in ("(", r"\binom", r"\sum", r"\prod", r"\int")
    return closes and opens


def _write(token: Token, names: Mapping[str, str]) -> str:
    if token.kind in ("letter", "run"):
        return (
            " ".join(names.get(letter, letter) for letter in token.text) + " " if token.text.isalpha() else token.text
        )
    if token.kind == "command":
        return f"{token.text} " if token.text[-1].isalpha() else token.text
    return _WRITTEN.get(token.text, token.text)


def for_parser(answer: Sequence[Token], gold: Sequence[Token]) -> tuple[str, set[str], str, set[str]]:
    """Answer and gold as LaTeX for the parser, each with the letters that its result must contain.

    Args:
        answer: Its tokens.
        gold: Its tokens.

    Raises:
        Unreadable: One of them has words that are no unit.
    """
    sides = [answer, gold]
    names = clashing_letters(set().union(*map(letters_of, sides)))
    (first, first_letters), (second, second_letters) = (
        (render(tokens, names), {names.get(letter, letter) for letter in letters_of(tokens)} - _CONSTANTS)
        for tokens in sides
    )
    return first, first_letters, second, second_letters
