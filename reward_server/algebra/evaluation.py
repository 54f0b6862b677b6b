"""The value of an expression at a point. What is infinite or undefined, on the way also, has no value."""

import math
import threading
from collections.abc import Mapping
from fractions import Fraction

import mpmath

from reward_server.algebra.budget import spend
from reward_server.algebra.nodes import Call, Degrees, Node, Number, Percent, Power, Product, Sum, Symbol

DIGITS, MORE_DIGITS = 50, 150
LOST_DIGITS = 20
"""Digits that rounding may cost; two values are equal if all others agree."""
MAX_EXPONENT = 10**6
MAX_ARGUMENT = 10**5
MAX_CANCELLED = 10**20
_STEP, _HARD_STEP = 4, 40
_ROUNDED = frozenset(
    {"sin", "cos", "tan", "cot", "arcsin", "arccos", "arctan", "ln", "log"}
)  # functions with zeros that are no rational numbers

context = mpmath.MPContext()
context.dps = DIGITS
lock = threading.RLock()
"""To be held while values are computed: mpmath changes the precision of its context meanwhile."""


class NoValue(ArithmeticError):
    """The value of an expression is not known here, or would take too long to compute."""


class Undefined(NoValue):
    """An expression has no finite value at a point."""


def small(lost: int = LOST_DIGITS) -> mpmath.mpf:
    """The relative size of what rounding leaves, if it costs `lost` digits."""
    return context.mpf(10) ** (lost - context.dps)


def is_real(value: mpmath.mpc) -> bool:
    """Whether a value is real up to rounding."""
    return bool(value.imag == 0 or abs(value.imag) <= abs(value.real) * small())


def value_at(node: Node, point: Mapping[str, Fraction]) -> mpmath.mpc:
    """The value of an expression where letters have the given values.

    Raises:
        Undefined: It has none.
        NoValue: It has one that is out of bounds, or a function that is not known.
    """
    try:
        return _value(node, point)
    except NoValue:
        raise
    except ZeroDivisionError as error:
        raise Undefined("a division by zero") from error
    except (ValueError, OverflowError, ArithmeticError, TypeError) as error:
        # mpmath raises ValueError at poles, and otherwise only where the computation failed.
        raise (Undefined if "pole" in str(error) else NoValue)(str(error)) from error


def _value(node: Node, point: Mapping[str, Fraction]) -> mpmath.mpc:
    spend(_HARD_STEP if isinstance(node, Power | Call) else _STEP)
    match node:
        case Number(value=value):
            return context.mpc(context.mpf(value.numerator) / value.denominator)
        case Symbol(name=name):
            return _symbol(name, point)
        case Sum(terms=terms):
            return _finite(_sum([_value(term, point) for term in terms]))
        case Product(factors=factors):
            return _finite(context.fprod([_value(factor, point) for factor in factors]))
        case Power(base=base, exponent=exponent):
            return _finite(_power(node, _value(base, point), _value(exponent, point)))
        case Percent(value=inner):
            return _value(inner, point) / 100
        case Degrees(value=inner):
            return _value(inner, point) * context.pi / 180
        case Call(name=name, arguments=arguments):
            values = [_value(argument, point) for argument in arguments]
            return _rounded(name, values[0], _finite(context.mpc(_call(name, values))))
    raise NoValue(f"{type(node).__name__} has no value")


def _finite(value: mpmath.mpc) -> mpmath.mpc:
    if not context.isfinite(value):
        raise Undefined("no finite value")
    return context.mpc(value)


def _symbol(name: str, point: Mapping[str, Fraction]) -> mpmath.mpc:
    if name in point:
        return context.mpc(context.mpf(point[name].numerator) / point[name].denominator)
    constants = {"e": context.e, r"\pi": context.pi, "i": context.j}
    if name not in constants:
        raise NoValue(f"{name} has no value")
    return context.mpc(+constants[name])


def _sum(values: list[mpmath.mpc]) -> mpmath.mpc:
    """The sum; zero if only rounding is left of it."""
    total = context.fsum(values)
    largest = max(abs(value) for value in values)
    if largest > MAX_CANCELLED and abs(total) < small(25) * largest:
        raise NoValue("a small difference of large numbers")
    return context.mpc(0) if abs(total) < small(10) * largest else total


def _rounded(name: str, argument: mpmath.mpc, value: mpmath.mpc) -> mpmath.mpc:
    """The value of a function; zero, or nothing, where rounding alone keeps it from its zero or its pole."""
    if name in ("tan", "cot", "sec", "csc") and abs(value) * small(10) > 1:
        raise Undefined("a pole")
    if name == "tanh" and abs(argument.real) > MORE_DIGITS:
        raise NoValue("a value that rounds to one")
    if name in _ROUNDED and abs(value) < small(10) and abs(argument) > small(DIGITS - 10):
        return context.mpc(0)
    return value


def _power(node: Power, base: mpmath.mpc, exponent: mpmath.mpc) -> mpmath.mpc:
    if not base and (exponent.real < 0 or exponent.imag):
        raise Undefined("a division by zero")
    if abs(exponent) > MAX_EXPONENT or (base and abs(exponent * context.log(base)) > MAX_EXPONENT):
        raise NoValue("a large power")
    root = node.exponent
    odd = isinstance(root, Power) and isinstance(root.base, Number) and root.base.value % 2 == 1
    if odd and base.imag == 0 and base.real < 0:
        return -((-base) ** exponent)  # the real cube root of a negative number
    return base**exponent


def _call(name: str, arguments: list[mpmath.mpc]) -> mpmath.mpc:
    first = arguments[0]
    if name not in ("log", "ln", "abs", "floor", "ceil", "max", "min", "gcd", "lcm") and any(
        abs(one) > MAX_ARGUMENT for one in arguments
    ):
        raise NoValue("a large argument")
    match name, len(arguments):
        case "abs", 1:
            return abs(first)
        case (("floor" | "ceil" | "gcd" | "lcm" | "max" | "min"), _):
            if not all(is_real(argument) for argument in arguments):
                raise NoValue("no real number")
            return _real_call(name, [argument.real for argument in arguments])
        case "factorial", 1:
            spend(_HARD_STEP)
            return context.factorial(first)
        case "binom", 2:
            spend(3 * _HARD_STEP)
            return context.binomial(*arguments)
        case (("log" | "ln"), 1):
            return context.log(first)
        case "log", 2:
            return context.log(first) / context.log(arguments[1])
    functions = {
        "sin": context.sin, "cos": context.cos, "tan": context.tan, "cot": context.cot, "sec": context.sec,
        "csc": context.csc, "arcsin": context.asin, "arccos": context.acos, "arctan": context.atan,
        "sinh": context.sinh, "cosh": context.cosh, "tanh": context.tanh, "exp": context.exp,
    }  # fmt: skip
    if name not in functions or len(arguments) != 1:
        raise NoValue(f"the function {name}")
    return functions[name](first)


def _real_call(name: str, arguments: list[mpmath.mpf]) -> mpmath.mpf:
    if name in ("max", "min"):
        return (max if name == "max" else min)(arguments)
    if name in ("floor", "ceil"):
        nearest = context.nint(arguments[0])
        if abs(arguments[0] - nearest) < small():
            return nearest
        return context.floor(arguments[0]) if name == "floor" else context.ceil(arguments[0])
    if any(abs(argument) > 10**30 for argument in arguments):
        raise NoValue("a large argument")
    integers = [int(context.nint(argument)) for argument in arguments]
    if any(abs(argument - integer) > 0 for argument, integer in zip(arguments, integers, strict=True)):
        raise NoValue("no integer")
    return context.mpf(math.gcd(*integers) if name == "gcd" else math.lcm(*integers))
