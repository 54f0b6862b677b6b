"""Powers and roots of exact forms."""

from fractions import Fraction
from functools import lru_cache
from math import isqrt

from reward_server.algebra.budget import spend
from reward_server.algebra.polynomial import (
    IMAGINARY,
    MAX_BITS,
    ONE,
    Form,
    TooComplex,
    generator,
    invert,
    is_constant,
    join,
    multiply,
    number,
)

MAX_POWER = 60
MAX_FACTORED = 10**9
"""Largest number whose roots are simplified; of larger ones they are opaque."""


def power(base: Form, exponent: Form) -> Form:
    """The base to a power.

    Raises:
        TooComplex: The result is too large, or not defined.
    """
    fixed = exponent.constant
    if fixed is None:
        return _symbolic_power(base, exponent)
    if fixed.denominator == 1:
        return _integer_power(base, fixed.numerator)
    if len(base.top) == 1 and base.bottom == ONE:
        return _root_of_term(base, fixed)
    if not base.top:
        if fixed < 0:
            raise TooComplex("a division by zero")
        return base
    return generator(f"root({base.key})", fixed, opaque=True)


def _integer_power(base: Form, exponent: int) -> Form:
    if exponent < 0:
        return _integer_power(invert(base), -exponent)
    if len(base.top) == 1 and base.bottom == ONE:
        ((monomial, coefficient),) = base.top.items()
        _check_power(coefficient, exponent)
        scaled = tuple((name, power * exponent) for name, power in monomial)
        joined, factor = join(scaled, ())
        return Form({joined: coefficient**exponent * factor}, ONE, base.opaque)
    if exponent > MAX_POWER and len(base.top) > 1:
        raise TooComplex("a large power of a sum")
    result, factor_form = number(1), base
    while exponent:
        if exponent % 2:
            result = multiply(result, factor_form)
        exponent //= 2
        if exponent:
            factor_form = multiply(factor_form, factor_form)
    return result


def _check_power(coefficient: Fraction, exponent: int) -> None:
    bits = max(abs(coefficient.numerator).bit_length(), coefficient.denominator.bit_length())
    if abs(coefficient) != 1 and bits * exponent > MAX_BITS:
        raise TooComplex("a number is too large")


def _root_of_term(base: Form, exponent: Fraction) -> Form:
    """A product of generators to a fractional power."""
    ((monomial, coefficient),) = base.top.items()
    letters = [name for name, _ in monomial if not name.isdigit()]
    if IMAGINARY in letters or (base.opaque and letters and (coefficient < 0 or len(letters) > 1)):
        # A root of a product is the product of the roots only for positive numbers; values decide.
        return generator(f"root({base.key})", exponent, opaque=True)
    result = _power_of_rational(coefficient, exponent)
    for name, inner in monomial:
        result = multiply(result, _power_of_generator(name, inner, exponent, base.opaque))
    return result


def _power_of_generator(name: str, inner: Fraction, exponent: Fraction, opaque: bool) -> Form:
    product = inner * exponent
    if opaque and not name.isdigit():
        return generator(f"root({name}^{inner})", exponent, opaque=True)
    even_root = exponent.denominator % 2 == 0
    if even_root and inner.denominator == 1 and inner % 2 == 0 and product % 2 != 0 and not is_constant(name):
        # The square root of x^2 is |x|, while that of x^3 exists only for positive x.
        return generator(f"abs({name})", product, opaque=True)
    joined, factor = join(((name, product),), ())
    return Form({joined: factor}, ONE, opaque)


def _power_of_rational(value: Fraction, exponent: Fraction) -> Form:
    if value < 0:
        if exponent.denominator == 2:
            imaginary = generator(IMAGINARY, Fraction(exponent.numerator % 4))
            return multiply(_power_of_rational(-value, exponent), multiply(imaginary, number(1)))
        if exponent.denominator % 2:
            sign = -1 if exponent.numerator % 2 else 1
            return multiply(number(sign), _power_of_rational(-value, exponent))
        raise TooComplex("an even root of a negative number")
    result = number(1)
    for part, direction in ((value.numerator, 1), (value.denominator, -1)):
        if part > MAX_FACTORED:
            raise TooComplex("a root of a large number")
        spend(20 + isqrt(part) // 20)
        for prime, count in _factor(part).items():
            joined, factor = join(((str(prime), count * direction * exponent),), ())
            result = multiply(result, Form({joined: factor}, ONE))
    return result


@lru_cache(maxsize=1000)
def _factor(value: int) -> dict[int, int]:
    """Prime factors of a number up to `MAX_FACTORED`, with their exponents."""
    factors: dict[int, int] = {}
    divisor = 2
    while divisor * divisor <= value:
        while value % divisor == 0:
            factors[divisor] = factors.get(divisor, 0) + 1
            value //= divisor
        divisor += 1 if divisor == 2 else 2
    if value > 1:
        factors[value] = factors.get(value, 0) + 1
    return factors


def _symbolic_power(base: Form, exponent: Form) -> Form:
    """A power with a letter in the exponent: each term of the exponent gives a factor, so that 2^{n+1} is 2 * 2^n."""
    if exponent.bottom != ONE or len(base.top) != 1 or base.bottom != ONE:
        return generator(f"power({base.key},{exponent.key})", opaque=True)
    ((monomial, coefficient),) = base.top.items()
    plain = coefficient > 0 and len(monomial) <= 1 and IMAGINARY not in dict(monomial) and not base.opaque
    if not plain or (monomial and coefficient != 1) or any(name.startswith("(") for name, _ in monomial):
        return generator(f"power({base.key},{exponent.key})", opaque=True)
    bases: dict[str, Fraction] = dict(monomial)
    if not monomial:
        if max(coefficient.numerator, coefficient.denominator) > MAX_FACTORED:
            raise TooComplex("a power of a large number")
        spend(20 + isqrt(coefficient.numerator) // 20 + isqrt(coefficient.denominator) // 20)
        bases = {str(prime): Fraction(count) for prime, count in _factor(coefficient.numerator).items()}
        bases |= {str(prime): Fraction(-count) for prime, count in _factor(coefficient.denominator).items()}
    opaque = exponent.opaque or any(IMAGINARY in dict(term) or r"\pi" in dict(term) for term in exponent.top)
    result = Form(ONE, ONE, opaque)
    for name, inner in bases.items():
        for term, count in exponent.top.items():
            scaled = count * inner
            factor = (
                generator(f"({name})^{term}", scaled, opaque)
                if term
                else power(generator(name) if not name.isdigit() else number(int(name)), number(scaled))
            )
            result = multiply(result, factor)
    return result
