"""Symbolic comparison of two expressions with math-verify. Runs in worker processes only.

Every function here may hang, exhaust memory or crash on untrusted input; the caller must be able to kill the process.
"""

import logging
import re
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import parse, verify
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

from reward_server.grading import GoldUnparseable
from reward_server.grading.exact import read_number
from reward_server.grading.notation import normalize

RELATIVE_TOLERANCE = sympy.Rational(1, 10**5)
"""Relative difference above which two numbers are different, however small they are."""

_LATEX = LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="all", equations=False
    ),
)
_CONFIGS = (_LATEX, ExprExtractionConfig())
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}|[^\x00-\x7f]|\n")
_ELLIPSIS = re.compile(r"\\[lc]?dots|\.\.\.|…")
# math-verify's own timeouts are off, because the parent kills this process; math-verify logs a warning about that.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def equal(answer: str, gold: str, prose: bool = False) -> bool:
    """Whether answer and gold are mathematically equal.

    Args:
        answer: An expression, such as the content of a box.
        gold: The ground truth: an expression, or text with mathematics in dollar signs.
        prose: `answer` is text that contains an expression somewhere; the last one that can be parsed is compared.

    Raises:
        GoldUnparseable: The gold contains nothing that can be parsed.
    """
    if prose:
        known = _read_gold(gold)
        return _same(_read_prose(answer), known) or (_has_no_word(answer) and _same(_read(normalize(answer)), known))
    answer, truth = normalize(answer), normalize(gold)
    if _ELLIPSIS.search(truth) or _ELLIPSIS.search(answer):
        # A pattern for the reader to continue has no value to compare, so it is compared as text.
        return _without_whitespace(answer) == _without_whitespace(truth)
    if ":" in answer or ":" in truth:
        parts, true_parts = _ratio(answer), _ratio(truth)
        return len(parts) == len(true_parts) and all(
            _same(_read(part), _read(true)) for part, true in zip(parts, true_parts, strict=True)
        )
    if len({read_number(side.strip()) for side in answer.split("=")} - {None}) > 1:
        return False  # a false equation: `3 = 7` does not answer 7
    return _same(_read(answer), _read_gold(gold))


def _same(found: list[Any], known: list[Any]) -> bool:
    if not found:
        return False
    verified = verify(known, found, timeout_seconds=None, raise_on_error=False)
    return bool(verified) and not _differ_as_numbers(found[0], known[0])


def _read(expression: str) -> list[Any]:
    """Parse one expression with math-verify, in a box that marks its beginning and end."""
    boxed = f"\\boxed{{{expression}}}"
    found = list(parse(boxed, (_LATEX,), parsing_timeout=None))
    # From text that is not LaTeX, math-verify would extract the last number, so that `7 \mid 8` would equal 8.
    if all(isinstance(one, str) for one in found) and len(_NUMBER.findall(expression)) == 1:
        return list(parse(boxed, _CONFIGS, parsing_timeout=None))
    return found


def _read_prose(text: str) -> list[Any]:
    return list(parse(text, _CONFIGS, parsing_timeout=None))


def _read_gold(gold: str) -> list[Any]:
    """Parse a gold: in a box, like an answer, unless its own dollar signs or box mark the mathematics in it."""
    inner = normalize(gold)
    if inner.count("$") % 2:
        inner = inner.replace("$", "")  # an unpaired dollar sign delimits nothing
    known = _read_prose(gold) if "$" in inner or "\\boxed" in gold else _read(inner)
    if not known:
        raise GoldUnparseable(f"nothing can be read from the gold {gold[:100]!r}")
    return known


def _has_no_word(text: str) -> bool:
    """Whether a text may consist of a single expression."""
    return "$" not in text and _WORD.search(text) is None


def _ratio(text: str) -> list[str]:
    """Terms of a ratio such as `11:21`; of `a:b = 11:21`, those after the equals sign."""
    return [part.strip() for part in text.rpartition("=")[2].split(":")]


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


def _without_whitespace(text: str) -> str:
    return "".join(text.split())
