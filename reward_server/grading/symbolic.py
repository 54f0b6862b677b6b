"""Whether two expressions are mathematically the same, by math-verify. Runs in worker processes only.

Everything here may hang, eat memory or crash on hostile input; whoever calls it must be able to kill it.
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
"""Two numbers further apart than this share of the larger are different, however small they are."""

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
# The parent kills this process when it takes too long; math-verify's own timeouts are off, and say so once.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def equal(answer: str, gold: str, prose: bool = False) -> bool:
    """Whether an answer says the same as the gold.

    Args:
        answer: One expression, such as the content of a box.
        gold: The known truth: one expression, or text with mathematics in dollar signs.
        prose: `answer` is text that holds an expression somewhere; the last one that can be read counts.

    Raises:
        GoldUnparseable: Nothing can be read from the gold.
    """
    if prose:
        known = _read_gold(gold)
        return _same(_read_prose(answer), known) or (_has_no_word(answer) and _same(_read(normalize(answer)), known))
    answer, truth = normalize(answer), normalize(gold)
    if _ELLIPSIS.search(truth) or _ELLIPSIS.search(answer):
        # A pattern that the reader is to continue has no value that could be compared.
        return _squeezed(answer) == _squeezed(truth)
    if ":" in answer or ":" in truth:
        parts, true_parts = _ratio(answer), _ratio(truth)
        return len(parts) == len(true_parts) and all(
            _same(_read(part), _read(true)) for part, true in zip(parts, true_parts, strict=True)
        )
    if len({read_number(side.strip()) for side in answer.split("=")} - {None}) > 1:
        return False  # 3 = 7 says nothing about 7
    return _same(_read(answer), _read_gold(gold))


def _same(found: list[Any], known: list[Any]) -> bool:
    if not found:
        return False
    verified = verify(known, found, timeout_seconds=None, raise_on_error=False)
    return bool(verified) and not _differ_as_numbers(found[0], known[0])


def _read(expression: str) -> list[Any]:
    """What math-verify makes of one expression, told by the box where it begins and ends."""
    boxed = f"\\boxed{{{expression}}}"
    found = list(parse(boxed, (_LATEX,), parsing_timeout=None))
    # Of what is no LaTeX it would take the last number, and so let `7 \mid 8` pass for 8.
    if all(isinstance(one, str) for one in found) and len(_NUMBER.findall(expression)) == 1:
        return list(parse(boxed, _CONFIGS, parsing_timeout=None))
    return found


def _read_prose(text: str) -> list[Any]:
    return list(parse(text, _CONFIGS, parsing_timeout=None))


def _read_gold(gold: str) -> list[Any]:
    """A gold is wrapped like an answer, unless it says itself where its mathematics is."""
    inner = normalize(gold)
    if inner.count("$") % 2:
        inner = inner.replace("$", "")  # a dollar sign without a partner marks nothing
    known = _read_prose(gold) if "$" in inner or "\\boxed" in gold else _read(inner)
    if not known:
        raise GoldUnparseable(f"nothing can be read from the gold {gold[:100]!r}")
    return known


def _has_no_word(text: str) -> bool:
    """Whether a text may be nothing but one expression."""
    return "$" not in text and _WORD.search(text) is None


def _ratio(text: str) -> list[str]:
    """Terms of `11:21`, and of `a:b = 11:21`."""
    return [part.strip() for part in text.rpartition("=")[2].split(":")]


def _differ_as_numbers(first: Any, second: Any) -> bool:
    """Whether both are real numbers and apart by more than the tolerance; math-verify rounds to six decimals."""
    if not all(isinstance(value, sympy.Expr) and value.is_number for value in (first, second)):
        return False
    if any(value.has(sympy.UnevaluatedExpr) for value in (first, second)):
        return False  # percentages, which math-verify compares in two ways
    one, other = (sympy.N(value.doit(), 30) for value in (first, second))
    if not (one.is_finite and other.is_finite):
        return False  # infinity is compared by name
    return bool(abs(one - other) > RELATIVE_TOLERANCE * max(abs(one), abs(other)))


def _squeezed(text: str) -> str:
    return "".join(text.split())
