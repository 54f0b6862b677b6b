"""Decides whether two expressions have the same values, by their values at several points to 50 digits.

This settles what has no exact form: functions, nested roots, letters in both. Two expressions that agree to 30 digits
wherever both are real, at eight points and more, are the same.
"""

import math
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction

import mpmath

from reward_server.reading.nodes import Call, Degrees, Items, Node, Number, Percent, Power, Product, Sum, Symbol

DIGITS = 50
AGREEING_DIGITS = 30
MAX_EXPONENT = 10**6
MAX_ARGUMENT = 10**5
CONSTANTS = frozenset({"e", "i", r"\pi", r"\infty"})
_DISCRETE = frozenset({"floor", "ceil", "factorial", "binom", "gcd", "lcm"})
_MIN_AGREEMENTS = 4

_context = mpmath.MPContext()
_context.dps = DIGITS
_NOISE = (_context.mpf(10) ** (-DIGITS - 15), _context.mpf(10) ** (-DIGITS + 10))
_lock = threading.Lock()


class NoValue(ArithmeticError):
    """An expression has no value at a point, or one that would take too long to compute."""


def same_values(one: Node, other: Node) -> bool | None:
    """Whether two expressions are equal at all points tried; None if too few points tell.

    Letters stand for real numbers, of either sign; where only one of the expressions is real, neither says anything.
    """
    symbols = symbols_of(one) | symbols_of(other)
    if r"\infty" in symbols:
        return None
    with _lock:  # mpmath changes the precision of its context while it computes
        return _compare(one, other, sorted(symbols - CONSTANTS))


def _compare(one: Node, other: Node, letters: list[str]) -> bool | None:
    discrete = bool((_calls_of(one) | _calls_of(other)) & _DISCRETE)
    if not letters:
        return _same_constants(one, other)
    agreements = complex_agreements = 0
    for positive, point in _points(letters, discrete):
        try:
            first, second = value_of(one, point), value_of(other, point)
        except (NoValue, ArithmeticError, ValueError, OverflowError, TypeError):
            continue
        real = [_is_real(value) for value in (first, second)]
        if _agree(first, second):
            agreements += all(real)
            complex_agreements += positive
        elif all(real) or (positive and not any(real)):
            return False
    return True if agreements >= _MIN_AGREEMENTS or complex_agreements >= _MIN_AGREEMENTS else None


def _same_constants(one: Node, other: Node) -> bool | None:
    try:
        return _agree(value_of(one, {}), value_of(other, {}))
    except (NoValue, ArithmeticError, ValueError, OverflowError, TypeError):
        return None


def close_values(one: Node, other: Node, absolute: Fraction, relative: Fraction) -> bool:
    """Whether two constant expressions differ by less than both tolerances; False if they are no constants."""
    if (symbols_of(one) | symbols_of(other)) - CONSTANTS:
        return False
    with _lock:
        try:
            first, second = value_of(one, {}), value_of(other, {})
        except (NoValue, ArithmeticError, ValueError, OverflowError, TypeError):
            return False
        difference = abs(first - second)
        size = max(abs(first), abs(second))
        return bool(difference < _exact(absolute) and difference <= _exact(relative) * size)


def real_value(node: Node) -> mpmath.mpf | None:
    """The value of a real constant, rounded to 30 digits; None for everything else."""
    if symbols_of(node) - CONSTANTS:
        return None
    with _lock:
        try:
            value = value_of(node, {})
        except (NoValue, ArithmeticError, ValueError, OverflowError, TypeError):
            return None
        if not _is_real(value):
            return None
        return _context.mpf(_context.nstr(value.real, AGREEING_DIGITS))


def _exact(value: Fraction) -> mpmath.mpf:
    return _context.mpf(value.numerator) / value.denominator


def renamed(node: Node, name: str, new: str) -> Node:
    """The expression with another name for one letter."""
    match node:
        case Symbol(name=found):
            return Symbol(new) if found == name else node
        case Sum(terms=parts):
            return Sum(tuple(renamed(part, name, new) for part in parts))
        case Product(factors=parts):
            return Product(tuple(renamed(part, name, new) for part in parts))
        case Call(name=function, arguments=parts):
            return Call(function, tuple(renamed(part, name, new) for part in parts))
        case Power(base=base, exponent=exponent):
            return Power(renamed(base, name, new), renamed(exponent, name, new))
        case Items(opening=opening, closing=closing, elements=parts):
            return Items(opening, closing, tuple(renamed(part, name, new) for part in parts))
    return node


def symbols_of(node: Node) -> frozenset[str]:
    """The names of all letters and constants in an expression."""
    match node:
        case Symbol(name=name):
            return frozenset({name})
        case Sum(terms=parts) | Product(factors=parts) | Call(arguments=parts):
            return frozenset().union(*(symbols_of(part) for part in parts))
        case Power(base=base, exponent=exponent):
            return symbols_of(base) | symbols_of(exponent)
        case Percent(value=value) | Degrees(value=value):
            return symbols_of(value)
    return frozenset()


def _calls_of(node: Node) -> frozenset[str]:
    match node:
        case Sum(terms=parts) | Product(factors=parts):
            return frozenset().union(*(_calls_of(part) for part in parts))
        case Call(name=name, arguments=parts):
            return frozenset({name}).union(*(_calls_of(part) for part in parts))
        case Power(base=base, exponent=exponent):
            return _calls_of(base) | _calls_of(exponent)
        case Percent(value=value) | Degrees(value=value):
            return _calls_of(value)
    return frozenset()


def _points(letters: list[str], discrete: bool) -> Iterator[tuple[bool, Mapping[str, Fraction]]]:
    """Values for the letters, with whether all are positive. Integers where an expression is meant for integers."""
    for trial in range(12):
        positive = trial < 8
        point = {}
        for index, letter in enumerate(letters):
            step = (trial * 7 + index * 5 + trial * index) % 23
            if discrete:
                value = Fraction(2 + (trial + 3 * index * (trial % 3) + 2 * index) % 11)
            else:
                # Some points between 0 and 1, where arcsines and roots of 1 - x^2 exist, and some above.
                value = Fraction(step + 2, 27) if trial % 2 else Fraction(31 + 5 * step, 29)
            point[letter] = value if positive or (trial + index) % 2 == 0 else -value
        yield positive, point


def _is_real(value: mpmath.mpc) -> bool:
    return bool(abs(value.imag) <= abs(value.real) * _context.mpf(10) ** -AGREEING_DIGITS or value.imag == 0)


def _agree(one: mpmath.mpc, other: mpmath.mpc) -> bool:
    size = max(abs(one), abs(other))
    if _NOISE[0] < size < _NOISE[1]:
        return True  # what rounding leaves of a zero such as sin(pi)
    return bool(abs(one - other) <= size * _context.mpf(10) ** -AGREEING_DIGITS)


def value_of(node: Node, point: Mapping[str, Fraction]) -> mpmath.mpc:
    """The value of an expression where letters have the given values.

    Raises:
        NoValue: It has none, or one that is out of bounds. mpmath also raises ArithmeticError and ValueError.
    """
    match node:
        case Number(value=value):
            return _context.mpc(_context.mpf(value.numerator) / value.denominator)
        case Symbol(name=name):
            return _symbol(name, point)
        case Sum(terms=terms):
            return _context.fsum(value_of(term, point) for term in terms)
        case Product(factors=factors):
            return _context.fprod(value_of(factor, point) for factor in factors)
        case Power(base=base, exponent=exponent):
            return _power(node, value_of(base, point), value_of(exponent, point))
        case Percent(value=inner):
            return value_of(inner, point) / 100
        case Degrees(value=inner):
            return value_of(inner, point) * _context.pi / 180
        case Call(name=name, arguments=arguments):
            return _context.mpc(_call(name, [value_of(argument, point) for argument in arguments]))
    raise NoValue(f"{type(node).__name__} has no value")


def _symbol(name: str, point: Mapping[str, Fraction]) -> mpmath.mpc:
    if name in point:
        return _context.mpc(_context.mpf(point[name].numerator) / point[name].denominator)
    constants = {"e": _context.e, r"\pi": _context.pi, "i": _context.j}
    if name not in constants:
        raise NoValue(f"{name} has no value")
    return _context.mpc(+constants[name])


def _power(node: Power, base: mpmath.mpc, exponent: mpmath.mpc) -> mpmath.mpc:
    if abs(exponent) > MAX_EXPONENT or (base and abs(exponent * _context.log(base)) > MAX_EXPONENT):
        raise NoValue("a large power")
    root = node.exponent
    odd = isinstance(root, Power) and isinstance(root.base, Number) and root.base.value % 2 == 1
    if odd and base.imag == 0 and base.real < 0:
        return -((-base) ** exponent)  # the real cube root of a negative number
    return base**exponent


def _call(name: str, arguments: list[mpmath.mpc]) -> mpmath.mpc:
    first = arguments[0]
    if name not in ("log", "ln", "abs", "floor", "ceil") and any(abs(one) > MAX_ARGUMENT for one in arguments):
        raise NoValue("a large argument")
    match name, len(arguments):
        case "abs", 1:
            return abs(first)
        case (("floor" | "ceil" | "gcd" | "lcm"), _):
            if not all(_is_real(argument) for argument in arguments):
                raise NoValue("no real number")
            return _integer_call(name, [argument.real for argument in arguments])
        case "factorial", 1:
            return _context.factorial(first)
        case "binom", 2:
            return _context.binomial(*arguments)
        case (("log" | "ln"), 1):
            return _context.log(first)
        case "log", 2:
            return _context.log(first) / _context.log(arguments[1])
        case (("max" | "min"), _):
            if not all(_is_real(argument) for argument in arguments):
                raise NoValue("no real number")
            return (max if name == "max" else min)(argument.real for argument in arguments)
    functions = {
        "sin": _context.sin, "cos": _context.cos, "tan": _context.tan, "cot": _context.cot, "sec": _context.sec,
        "csc": _context.csc, "arcsin": _context.asin, "arccos": _context.acos, "arctan": _context.atan,
        "sinh": _context.sinh, "cosh": _context.cosh, "tanh": _context.tanh, "exp": _context.exp,
    }  # fmt: skip
    if name not in functions or len(arguments) != 1:
        raise NoValue(f"the function {name}")
    return functions[name](first)


def _integer_call(name: str, arguments: list[mpmath.mpf]) -> mpmath.mpf:
    if name in ("floor", "ceil"):
        nearest = _context.nint(arguments[0])
        if abs(arguments[0] - nearest) < _context.mpf(10) ** -AGREEING_DIGITS:
            return nearest
        return _context.floor(arguments[0]) if name == "floor" else _context.ceil(arguments[0])
    integers = [int(_context.nint(argument)) for argument in arguments]
    if any(abs(argument - integer) > 0 for argument, integer in zip(arguments, integers, strict=True)):
        raise NoValue("no integer")
    return _context.mpf(math.gcd(*integers) if name == "gcd" else math.lcm(*integers))
