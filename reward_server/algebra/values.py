"""Whether two expressions have the same value: by exact arithmetic, then by values, with rounding for decimals."""

from fractions import Fraction

from reward_server.algebra import polynomial
from reward_server.algebra.forms import form_of
from reward_server.algebra.nodes import Call, Degrees, Node, Number, Percent, Power, Product, Sum, Symbol, negative
from reward_server.algebra.numeric import close_values, is_undefined, same_values
from reward_server.algebra.points import symbols_of
from reward_server.algebra.polynomial import Form, TooComplex

ABSOLUTE_TOLERANCE = Fraction(1, 10**6)
RELATIVE_TOLERANCE = Fraction(1, 10**5)
"""A decimal equals a number if they differ by less than both: it is that number, rounded to six decimals."""


def as_percent(node: Node) -> Node | None:
    """The number before a percent sign, with its own sign; None if the expression is no percentage."""
    match node:
        case Percent(value=value):
            return value
        case Product(factors=(Number(value=Fraction(numerator=-1, denominator=1)), Percent(value=value))):
            return negative(value)
    return None


def without_degrees(node: Node) -> Node:
    """An expression of degrees as a plain number of degrees; the argument of a function keeps them."""
    match node:
        case Degrees(value=value):
            return value
        case Sum(terms=terms):
            return Sum(tuple(without_degrees(term) for term in terms))
        case Product(factors=factors):
            bare = tuple(without_degrees(factor) for factor in factors)
            if len(bare) == 2 and isinstance(bare[0], Number) and isinstance(bare[1], Number):
                return (
                    Number(bare[0].value * bare[1].value, bare[0].decimal or bare[1].decimal)
                    if bare != factors
                    else node
                )
            return Product(bare)
    return node


def same_value(one: Node, other: Node) -> bool | None:
    """Whether two expressions have the same value; a decimal may be rounded to six places.

    What has no value, and what computes with infinity, equals nothing but itself.
    """
    if one == other:
        return True
    infinite = [r"\infty" in symbols_of(node) for node in (one, other)]
    if any(infinite):
        return _sign_of_infinity(one) is not None and _sign_of_infinity(one) == _sign_of_infinity(other)
    try:
        first, second = form_of(one), form_of(other)
        result = polynomial.equal(first, second)
        # What is opaque may have no value, and be gone from the form all the same.
        if result and (first.opaque or second.opaque) and (is_undefined(one) or is_undefined(other)):
            return False
    except TooComplex:
        first = second = polynomial.number(0)
        result = None
    if result is None:
        result = same_values(one, other)
    if result is False and (_has_decimal(one) or _has_decimal(other)):
        return _close_forms(first, second) or close_values(one, other, ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE)
    return result


def _sign_of_infinity(node: Node) -> int | None:
    """The sign of an infinity that stands alone; None for every other expression."""
    match node:
        case Symbol(name=r"\infty"):
            return 1
        case Product(factors=(Number(value=value), inner)) if abs(value) == 1:
            sign = _sign_of_infinity(inner)
            return None if sign is None else sign * int(value)
        case Sum(terms=(inner,)) | Product(factors=(inner,)):
            return _sign_of_infinity(inner)
    return None


def _close_forms(one: Form, other: Form) -> bool:
    """Whether two polynomials have the same terms, with coefficients that differ by rounding only."""
    if one.bottom != other.bottom or one.top.keys() != other.top.keys():
        return False
    return bool(one.top) and all(_close(value, other.top[term]) for term, value in one.top.items())


def _close(one: Fraction, other: Fraction) -> bool:
    difference = abs(one - other)
    return difference < ABSOLUTE_TOLERANCE and difference <= RELATIVE_TOLERANCE * max(abs(one), abs(other))


def _has_decimal(node: Node) -> bool:
    match node:
        case Number(decimal=decimal):
            return decimal
        case Sum(terms=parts) | Product(factors=parts) | Call(arguments=parts):
            return any(_has_decimal(part) for part in parts)
        case Power(base=base, exponent=exponent):
            return _has_decimal(base) or _has_decimal(exponent)
        case Percent(value=value) | Degrees(value=value):
            return _has_decimal(value)
    return False
