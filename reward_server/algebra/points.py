"""The points at which two expressions are compared, and what is to be known about their letters for that."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from reward_server.algebra.nodes import (
    Call,
    Degrees,
    Difference,
    Items,
    Matrix,
    Node,
    Number,
    Percent,
    Power,
    Product,
    Ratio,
    Relation,
    Sum,
    Symbol,
    Union,
)

CONSTANTS = frozenset({"e", "i", r"\pi", r"\infty"})
_NATURAL = frozenset({"factorial", "binom", "gcd", "lcm"})
_ROUNDING = _NATURAL | {"floor", "ceil"}
_INTEGER_LETTERS = frozenset("nmkjlpq")
"""Letters that stand for integers where something is rounded; other letters stand for real numbers there."""
_POSITIVE_POINTS = 14
_POINTS = 30
_MAX_CONSTANTS = 4
MAX_CONSTANT = 10**12
"""Largest constant with points around it."""
_SCALES = [
    Fraction(*pair)
    for pair in ((31, 29), (2, 27), (66, 29), (17, 27), (173, 10), (171, 29), (9, 27), (1037, 10), (12507, 10),
                 (101, 29), (25, 27), (100079, 10))
]  # fmt: skip
"""Some numbers between 0 and 1, where arcsines and roots of 1 - x^2 exist, and some of every size above."""
_WHOLE = [Fraction(one) for one in (2, 3, 12, 5, 1, 7, 4, 30, 6, 10, 60)]


def children(node: Node) -> tuple[Node, ...]:
    """The parts of a node."""
    match node:
        case Sum(terms=parts) | Product(factors=parts) | Call(arguments=parts):
            return parts
        case Power(base=base, exponent=exponent):
            return (base, exponent)
        case Percent(value=value) | Degrees(value=value):
            return (value,)
        case Items(elements=parts) | Relation(sides=parts) | Union(parts=parts) | Ratio(terms=parts):
            return parts
        case Matrix(rows=rows):
            return sum(rows, ())
        case Difference(whole=whole, without=without):
            return (whole, without)
    return ()


def walk(node: Node) -> Iterator[Node]:
    """The expression and all its parts."""
    yield node
    for child in children(node):
        yield from walk(child)


def symbols_of(node: Node) -> frozenset[str]:
    """The names of all letters and constants in an expression."""
    return frozenset(part.name for part in walk(node) if isinstance(part, Symbol))


def points(nodes: Iterable[Node]) -> Iterator[tuple[bool, Mapping[str, Fraction]]]:
    """Values for the letters of expressions, with whether all are positive.

    They have several sizes and all signs, and lie around the constants of the expressions. Letters of factorials,
    binomials and divisors are natural numbers.
    """
    parts = [part for node in nodes for part in walk(node)]
    letters = sorted({part.name for part in parts if isinstance(part, Symbol)} - CONSTANTS)
    natural, integers = natural_letters(parts), integer_letters(parts)
    rounded = bool(integers)
    constants = _constants(parts)
    real = (
        _SCALES
        + [Fraction(3), Fraction(8)] * bool(rounded)
        + [one for value in constants for one in (value * Fraction(14, 13), value * Fraction(12, 13))]
    )
    whole = [value for value in constants if value.denominator == 1]
    whole = _WHOLE + [one for value in whole for one in (value, value + 1, 2 * value, value - 1) if one > 0]
    for trial in range(max(_POINTS, 2 * max(len(real), len(whole)))):
        positive = trial < _POSITIVE_POINTS or trial % 4 == 0
        point = {}
        for index, letter in enumerate(letters):
            values = whole if letter in integers else real
            value = values[(trial * (1 + index) + index * (4 + trial // len(values))) % len(values)]
            negative = not positive and letter not in natural and (trial >> index % 2) % 2 == 1
            point[letter] = -value if negative else value
        yield positive, point


def natural_letters(parts: Sequence[Node]) -> frozenset[str]:
    """The letters that stand for natural numbers: those in factorials, binomials and divisors."""
    calls = [part for part in parts if isinstance(part, Call) and part.name in _NATURAL]
    return frozenset().union(*map(symbols_of, calls))


def integer_letters(parts: Sequence[Node]) -> frozenset[str]:
    """The letters that stand for integers: natural numbers, and the usual ones where something is rounded."""
    rounded = any(isinstance(part, Call) and part.name in _ROUNDING for part in parts)
    return natural_letters(parts) | (_INTEGER_LETTERS if rounded else frozenset())


def _constants(parts: Sequence[Node]) -> list[Fraction]:
    found = {abs(part.value) for part in parts if isinstance(part, Number)} - {0, 1, 2, Fraction(1, 2)}
    ordered = sorted(value for value in found if value <= MAX_CONSTANT)
    return ordered[-_MAX_CONSTANTS // 2 :] + ordered[: _MAX_CONSTANTS // 2]
