"""Decides whether two expressions have the same values, by their values at several points to 50 digits.

This settles what has no exact form: functions, nested roots, letters in both. Two expressions that agree to 30 digits
at four points and more, and differ at none, are the same. What agrees is computed again to 150 digits.
"""

from collections.abc import Mapping
from fractions import Fraction
from itertools import chain

import mpmath

from reward_server.algebra.budget import remember, remembered, spend
from reward_server.algebra.evaluation import DIGITS, MORE_DIGITS, NoValue, Undefined, context, is_real, lock, small
from reward_server.algebra.evaluation import value_at as value_of
from reward_server.algebra.kinks import kinks
from reward_server.algebra.nodes import Node
from reward_server.algebra.points import CONSTANTS, points, symbols_of

AGREEING_DIGITS = 30
_MIN_AGREEMENTS = 4
_CHECKED_AGAIN = 4
"""At how many points expressions with letters are computed to more digits after they agreed."""
_LARGE = 10**20
Point = Mapping[str, Fraction]


def same_values(one: Node, other: Node) -> bool | None:
    """Whether two expressions are equal at all points tried; None if too few points tell.

    Letters stand for real numbers, of either sign; where only one of the expressions is real, neither says anything.
    An expression that is undefined at all points equals nothing.
    """
    if r"\infty" in symbols_of(one) | symbols_of(other):
        return None
    with lock:
        return _compare(one, other)


def _compare(one: Node, other: Node) -> bool | None:
    agreements = complex_agreements = 0
    visible, one_is_complex = 0, False
    defined, undefined = [False, False], [False, False]
    constant = not (symbols_of(one) | symbols_of(other)) - CONSTANTS
    for positive, point in chain(points((one, other)), kinks((one, other))):
        values = [_known_value(node, point) for node in (one, other)]
        for index, value in enumerate(values):
            defined[index] |= value is not None and not isinstance(value, Undefined)
            undefined[index] |= isinstance(value, Undefined)
        if any(value is None or isinstance(value, Undefined) for value in values):
            if constant:
                break
            continue
        first, second = values
        real = [is_real(value) for value in (first, second)]
        agreed = _agree_at(one, other, point, (first, second), constant or agreements < _CHECKED_AGAIN)
        if constant:
            return agreed
        if agreed:
            agreements += all(real)
            complex_agreements += positive
            visible += bool(_size(first, second)[0] < _LARGE)
        elif agreed is False and (all(real) or (positive and not any(real))):
            return False
        elif agreed is False:
            one_is_complex |= positive
    if one_is_complex and not visible:
        return False  # they agree only where values are so large that what makes one of them complex is rounded away
    if any(bad and not good for bad, good in zip(undefined, defined, strict=True)):
        return False
    return True if agreements >= _MIN_AGREEMENTS or complex_agreements >= _MIN_AGREEMENTS else None


def _known_value(node: Node, point: Point) -> mpmath.mpc | Undefined | None:
    try:
        return value_of(node, point)
    except Undefined as error:
        return error
    except NoValue:
        return None


def _agree_at(one: Node, other: Node, point: Point, values: tuple[mpmath.mpc, mpmath.mpc], again: bool) -> bool | None:
    """Whether two values agree, computed to more digits if they are near; None if rounding leaves that open."""
    size, difference = _size(*values)
    agreed = bool(difference <= size * small())
    if not (again and agreed) and (agreed or (difference > size * context.mpf(10) ** -10 and difference > small())):
        return agreed
    spend(100)
    with context.workdps(MORE_DIGITS):
        more = [_known_value(node, point) for node in (one, other)]
        if any(value is None or isinstance(value, Undefined) for value in more):
            return None
        size, exact = _size(*more)
        if exact <= size * small() or exact < difference * small(MORE_DIGITS - DIGITS + 20):
            return True  # equal, or a difference that is rounding: it shrinks with the number of digits
        return None if point and exact < context.mpf(10) ** -DIGITS else False


def _size(one: mpmath.mpc, other: mpmath.mpc) -> tuple[mpmath.mpf, mpmath.mpf]:
    return max(abs(one), abs(other)), abs(one - other)


def is_undefined(node: Node) -> bool:
    """Whether an expression has no value at any point; False if its values are not known."""
    if r"\infty" in symbols_of(node):
        return False
    known = remembered("undefined", node)
    if known is None:
        known = _is_undefined(node)
        remember("undefined", node, known)
    return bool(known)


def _is_undefined(node: Node) -> bool:
    undefined = False
    with lock:
        for _, point in points((node,)):
            value = _known_value(node, point)
            if not isinstance(value, Undefined):
                if value is not None or not point:
                    return False
                continue
            undefined = True
            if not point:
                break
    return undefined


def close_values(one: Node, other: Node, absolute: Fraction, relative: Fraction) -> bool:
    """Whether two constant expressions differ by less than both tolerances; False if they are no constants."""
    if (symbols_of(one) | symbols_of(other)) - CONSTANTS:
        return False
    with lock:
        try:
            size, difference = _size(value_of(one, {}), value_of(other, {}))
        except NoValue:
            return False
        return bool(difference < _exact(absolute) and difference <= _exact(relative) * size)


def real_value(node: Node) -> mpmath.mpf | None:
    """The value of a real constant, rounded to 30 digits; None for everything else."""
    if symbols_of(node) - CONSTANTS:
        return None
    with lock:
        try:
            value = value_of(node, {})
        except NoValue:
            return None
        if not is_real(value):
            return None
        return context.mpf(context.nstr(value.real, AGREEING_DIGITS))


def _exact(value: Fraction) -> mpmath.mpf:
    return context.mpf(value.numerator) / value.denominator
