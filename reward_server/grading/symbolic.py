"""Symbolic comparison of what this package does not decide itself, with math-verify. Runs in worker processes only.

Every function here may hang, exhaust memory or crash on untrusted input; the caller must be able to kill the process.
"""

import logging
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import parse, verify
from math_verify.parser import LatexExtractionConfig

from reward_server.algebra.nodes import Words
from reward_server.algebra.statements import same
from reward_server.grading import GoldUnparseable, Outcome, Unread
from reward_server.grading.decision import decide, read_answer
from reward_server.grading.exact import collapse_spaces
from reward_server.grading.golds import formula_of, read_gold
from reward_server.grading.notation import unify
from reward_server.grading.prose import answer_in
from reward_server.grading.rendering import for_parser, render
from reward_server.reading.names import name_of
from reward_server.reading.statement import sides_of
from reward_server.reading.token_groups import is_sign
from reward_server.reading.tokens import CLOSING, OPENING, Token, Unreadable, tokenize

RELATIVE_TOLERANCE = sympy.Rational(1, 10**5)
"""Relative difference above which two numbers are different, however small they are."""

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
)
_LATEX = LatexExtractionConfig(boxed_match_priority=0, normalization_config=_NORMALIZATION)
_MAX_SHORT = 300
"""Length of a text without a box that may be an answer as a whole, in characters."""
_DECIMAL_COMMA = re.compile(r"\d+,\d{1,2}")
# math-verify's own timeouts are off, because the parent kills this process; math-verify logs a warning about that.
logging.getLogger("math_verify").setLevel(logging.ERROR)


class _AnswerLost(Exception):
    """The parser makes nothing of an answer, or loses a letter of it, while it reads the gold."""


def equal(answer: str, gold: str, prose: bool = False) -> Outcome:
    """Whether answer and gold are mathematically equal, or why the answer cannot be read.

    Args:
        answer: An expression, such as the content of a box.
        gold: The ground truth: an expression, or text with mathematics in dollar signs.
        prose: `answer` is text that contains an expression somewhere; the last one that can be parsed is compared.

    Raises:
        GoldUnparseable: The gold cannot be read without losing something of it.
    """
    readings = read_gold(gold)
    if prose:
        return _prose_equals(answer, gold)
    if collapse_spaces(answer) == collapse_spaces(gold):
        return True  # also for a gold that nothing can read
    decided = decide(answer, gold)
    if decided is not None:
        return decided
    known = tokenize(unify(formula_of(gold)), scientific=False)
    try:
        found = tokenize(unify(answer))
    except Unreadable as error:
        return Unread(str(error))
    try:
        return _parsed_sides_equal(found, known)
    except _AnswerLost:
        return _unread(answer, "its letters and signs make no expression")
    except Unreadable as error:
        fault = _fault_of(found)
        if not readings and (_fault_of(known) or not fault):
            raise GoldUnparseable(f"the gold {gold[:100]!r} cannot be read: {error}") from error
        return _unread(answer, fault)


def _fault_of(tokens: Sequence[Token]) -> str:
    """Why tokens cannot be written for the parser; blank if they can."""
    try:
        sides_of(tokens)
        render(tokens, {})
    except Unreadable as error:
        return str(error)
    return ""


def _unread(answer: str, reason: str) -> Outcome:
    """An answer that the parser cannot read; it is merely different if there is another reading, or no reason."""
    return Unread(reason) if reason and not read_answer(answer) else False


def _parsed_sides_equal(answer: Sequence[Token], gold: Sequence[Token]) -> bool:
    """Whether answer and gold are equal by the parser, which would read only the right side of an equation.

    Therefore, an equation and a value are equal only if each side of the equation, but for a name, is that value.

    Raises:
        Unreadable: One of them cannot be written for the parser.
        _AnswerLost: The parser cannot read the answer.
    """
    (found, found_signs), (known, known_signs) = sides_of(answer), sides_of(gold)
    if _has_inner_equation(answer) or _has_inner_equation(gold):
        return False
    if "=" not in found_signs + known_signs:
        return _parsed_equal(answer, gold)
    if found_signs == known_signs == ["="] and not (name_of(found[0]) and name_of(known[0])):
        return any(all(map(_parsed_equal, sides, known)) for sides in (found, found[::-1]))
    if ("=" in found_signs) == ("=" in known_signs):
        return _parsed_equal(answer, gold)
    if set(found_signs + known_signs) != {"="} or any(is_sign(token, ",", ";", "or") for token in (*answer, *gold)):
        return False
    found, known = (sides[1:] if len(sides) > 1 and name_of(sides[0]) else sides for sides in (found, known))
    return all(_parsed_equal(one, other) for one in found for other in known)


def _has_inner_equation(tokens: Sequence[Token]) -> bool:
    """Whether an equation stands in brackets that are no index, as in `(2x=12)`."""
    indices: list[bool] = []
    for before, token in pairwise([Token("sign", ""), *tokens]):
        if token.text in OPENING:
            indices.append(before.text == "_")
        elif token.text in CLOSING and indices:
            indices.pop()
        elif token.text == "=" and indices and not any(indices):
            return True
    return False


def _parsed_equal(answer: Sequence[Token], gold: Sequence[Token]) -> bool:
    left, left_letters, right, right_letters = for_parser(answer, gold)
    known = _read(right, right_letters)
    if not known:
        raise GoldUnparseable(f"the gold {right[:100]!r} cannot be read without a loss")
    found = _read(left, left_letters)
    if not found:
        raise _AnswerLost
    return _same(found, known)


def _prose_equals(answer: str, gold: str) -> Outcome:
    """Whether the answer that a text ends with equals the gold."""
    readings = read_gold(gold)
    if len(answer) <= _MAX_SHORT and same(read_answer(answer), readings):
        return True
    found = answer_in(answer, bool(readings) and isinstance(readings[0].node, Words))
    if not found:
        return Unread("there is no expression in the text")
    outcome = equal(found, gold)
    if outcome is not False:
        return outcome
    if _DECIMAL_COMMA.fullmatch(found):
        return equal(found.replace(",", "."), gold)
    if found.count("=") < 2:
        return False
    # Working that leads to an answer, in which a step may be wrong: the parser takes the end of it.
    chain, known = (list(parse(text, (_LATEX,), parsing_timeout=None)) for text in (f"${found}$", rf"\boxed{{{gold}}}"))
    return bool(chain) and bool(known) and _same(chain, known)


def _same(found: list[Any], known: list[Any]) -> bool:
    verified = verify(known, found, timeout_seconds=None, raise_on_error=False)
    return bool(verified) and not _differ_as_numbers(found[0], known[0])


def _read(expression: str, letters: set[str]) -> list[Any]:
    """Parse one expression, in a box that marks its ends. Empty if a letter of it is nowhere in the result."""
    found = list(parse(f"\\boxed{{{expression}}}", (_LATEX,), parsing_timeout=None))
    if not found or isinstance(found[0], str):
        return []
    kept = {str(symbol) for symbol in found[0].atoms(sympy.Symbol)} if isinstance(found[0], sympy.Basic) else set()
    kept |= {str(name) for name in _undefined_functions(found[0])}
    differential = {"d"} if r"\int" in expression else set()
    # The parser writes all letters in lower case.
    lost = [letter for letter in letters - differential if not any(letter.lower() in name.lower() for name in kept)]
    return [] if lost else found


def _undefined_functions(value: Any) -> set[str]:
    if not isinstance(value, sympy.Basic):
        return set()
    return {str(function.func) for function in value.atoms(sympy.core.function.AppliedUndef)}


def _differ_as_numbers(first: Any, second: Any) -> bool:
    """Whether both are real numbers that differ by more than the tolerance.

    Needed because math-verify rounds to six decimals, which would make all very small numbers equal.
    """
    if not all(isinstance(value, sympy.Expr) and value.is_number for value in (first, second)):
        return False
    if any(value.has(sympy.UnevaluatedExpr) for value in (first, second)):
        return False  # percentages, which math-verify compares in two ways
    one, other = (sympy.N(value.doit(), 30) for value in (first, second))
    if not (one.is_finite and other.is_finite):
        return False  # infinity is compared symbolically
    return bool(abs(one - other) > RELATIVE_TOLERANCE * max(abs(one), abs(other)))
