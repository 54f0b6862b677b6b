"""Exact arithmetic on fractions of polynomials, in which equal values have equal forms.

The generators are letters, constants, primes with fractional exponents (roots), and whatever else has no algebraic
rule here (a sine, a nested root), which is opaque. Letters under a root count as positive, as everywhere where a root
is to be real; only an even power under an even root becomes an absolute value. Different forms without opaque
generators are different values; with them, they may still be equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import comb, factorial, gcd

from reward_server.reading.nodes import Call, Degrees, Node, Number, Percent, Power, Product, Sum, Symbol

Monomial = tuple[tuple[str, Fraction], ...]
Terms = dict[Monomial, Fraction]

MAX_TERMS = 300
MAX_POWER = 60
MAX_BITS = 4000
"""Maximum size of a number, in bits."""
MAX_FACTORED = 10**9
"""Largest number whose roots are simplified; of larger ones they are opaque."""
MAX_NAME_CHARS = 3000
MAX_FACTORIAL = 200
IMAGINARY = "i"


class TooComplex(ValueError):
    """The exact form is too large, or the value does not exist (a division by zero)."""


@dataclass(frozen=True)
class Form:
    """A fraction of two polynomials; `opaque` says that it has generators between which relations may hold."""

    top: Mapping[Monomial, Fraction]
    bottom: Mapping[Monomial, Fraction]
    opaque: bool = False

    @property
    def constant(self) -> Fraction | None:
        """The value of a rational number; None for anything else."""
        if self.bottom != _ONE or any(self.top) or len(self.top) > 1:
            return None
        return self.top.get((), Fraction(0))

    @property
    def key(self) -> str:
        """A text that is the same for equal forms with the same denominators."""
        return f"{sorted(self.top.items())}/{sorted(self.bottom.items())}"


_ONE: Terms = {(): Fraction(1)}


def number(value: Fraction | int) -> Form:
    """The form of a rational number."""
    return Form({(): Fraction(value)} if value else {}, _ONE)


def generator(name: str, exponent: Fraction = Fraction(1), opaque: bool = False) -> Form:
    """The form of a single generator to a power.

    Raises:
        TooComplex: Its name, which contains the forms of its arguments, is too long.
    """
    if len(name) > MAX_NAME_CHARS:
        raise TooComplex("functions are nested too deep")
    return Form({((name, exponent),): Fraction(1)}, _ONE, opaque)


def add(one: Form, other: Form) -> Form:
    """The sum."""
    if one.bottom == other.bottom:
        return _form(_add(one.top, other.top), one.bottom, one.opaque or other.opaque)
    top = _add(_multiply(one.top, other.bottom), _multiply(other.top, one.bottom))
    return _form(top, _multiply(one.bottom, other.bottom), one.opaque or other.opaque)


def multiply(one: Form, other: Form) -> Form:
    """The product."""
    return _form(_multiply(one.top, other.top), _multiply(one.bottom, other.bottom), one.opaque or other.opaque)


def invert(form: Form) -> Form:
    """One divided by the form.

    Raises:
        TooComplex: The form is zero.
    """
    if not form.top:
        raise TooComplex("a division by zero")
    return _form(form.bottom, form.top, form.opaque)


def equal(one: Form, other: Form) -> bool | None:
    """Whether two forms have the same value; None if opaque generators leave that open."""
    if _multiply(one.top, other.bottom) == _multiply(other.top, one.bottom):
        return True
    return None if one.opaque or other.opaque else False


def proportional(one: Form, other: Form) -> Fraction | bool | None:
    """The factor between the numerators of two forms: a fraction, True for another constant, False if there is none.

    Returns:
        None if opaque generators leave it open.
    """
    undecided = None if one.opaque or other.opaque else False
    parts, others = _by_letters(one.top), _by_letters(other.top)
    if not parts or parts.keys() != others.keys():
        return undecided
    letters = max(parts)
    if _multiply(one.top, others[letters]) != _multiply(other.top, parts[letters]):
        return undecided
    ratio = {
        monomial: others[letters][monomial] / coefficient
        for monomial, coefficient in parts[letters].items()
        if monomial in others[letters]
    }
    same = len(ratio) == len(parts[letters]) == len(others[letters]) and len(set(ratio.values())) == 1
    return next(iter(ratio.values())) if same else True


def _by_letters(terms: Mapping[Monomial, Fraction]) -> dict[Monomial, Terms]:
    """The coefficient, free of letters, of each product of letters."""
    parts: dict[Monomial, Terms] = {}
    for monomial, coefficient in terms.items():
        letters = tuple(pair for pair in monomial if not _is_constant(pair[0]))
        rest = tuple(pair for pair in monomial if _is_constant(pair[0]))
        parts.setdefault(letters, {})[rest] = coefficient
    return parts


def _is_constant(name: str) -> bool:
    return name.isdigit() or name in (IMAGINARY, "e", r"\pi")


def _form(top: Mapping[Monomial, Fraction], bottom: Mapping[Monomial, Fraction], opaque: bool) -> Form:
    """Divide by a denominator of one term, which keeps most denominators at one."""
    if len(bottom) == 1:
        ((monomial, coefficient),) = bottom.items()
        if monomial or coefficient != 1:
            inverse = {tuple((name, -exponent) for name, exponent in monomial): 1 / coefficient}
            return Form(_multiply(top, inverse), _ONE, opaque)
    return Form(top, bottom, opaque)


def _add(one: Mapping[Monomial, Fraction], other: Mapping[Monomial, Fraction]) -> Terms:
    total = dict(one)
    for monomial, coefficient in other.items():
        value = total.get(monomial, Fraction(0)) + coefficient
        if value:
            total[monomial] = value
        else:
            total.pop(monomial, None)
    return _check(total)


def _multiply(one: Mapping[Monomial, Fraction], other: Mapping[Monomial, Fraction]) -> Terms:
    if len(one) * len(other) > MAX_TERMS * 10:
        raise TooComplex("too many terms")
    total: Terms = {}
    for first, a in one.items():
        for second, b in other.items():
            monomial, factor = _join(first, second) if first or second else ((), Fraction(1))
            value = total.get(monomial, Fraction(0)) + a * b * factor
            if value:
                total[monomial] = value
            else:
                total.pop(monomial, None)
    return _check(total)


def _check(terms: Terms) -> Terms:
    if len(terms) > MAX_TERMS:
        raise TooComplex("too many terms")
    if any(abs(c.numerator).bit_length() + c.denominator.bit_length() > MAX_BITS for c in terms.values()):
        raise TooComplex("a number is too large")
    return terms


def _join(first: Monomial, second: Monomial) -> tuple[Monomial, Fraction]:
    """The product of two monomials: exponents of primes stay in [0, 1), that of i is 0 or 1; the rest is a factor."""
    exponents = dict(first)
    for name, exponent in second:
        exponents[name] = exponents.get(name, Fraction(0)) + exponent
    factor = Fraction(1)
    for name, exponent in list(exponents.items()):
        if name.isdigit():
            whole = exponent.__floor__()
            if abs(whole) * int(name).bit_length() > MAX_BITS:
                raise TooComplex("a number is too large")
            factor *= Fraction(int(name)) ** whole
            exponents[name] = exponent - whole
        elif name == IMAGINARY and exponent.denominator == 1:
            factor *= (1, 1, -1, -1)[exponent.numerator % 4]
            exponents[name] = exponent % 2
    return tuple(sorted(pair for pair in exponents.items() if pair[1])), factor


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
    if len(base.top) == 1 and base.bottom == _ONE:
        return _root_of_term(base, fixed)
    if not base.top:
        if fixed < 0:
            raise TooComplex("a division by zero")
        return base
    return generator(f"root({base.key})", fixed, opaque=True)


def _integer_power(base: Form, exponent: int) -> Form:
    if exponent < 0:
        return _integer_power(invert(base), -exponent)
    if len(base.top) == 1 and base.bottom == _ONE:
        ((monomial, coefficient),) = base.top.items()
        _check_power(coefficient, exponent)
        scaled = tuple((name, power * exponent) for name, power in monomial)
        joined, factor = _join(scaled, ())
        return Form({joined: coefficient**exponent * factor}, _ONE, base.opaque)
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
    result = _power_of_rational(coefficient, exponent)
    for name, inner in monomial:
        result = multiply(result, _power_of_generator(name, inner, exponent, base.opaque))
    return result


def _power_of_generator(name: str, inner: Fraction, exponent: Fraction, opaque: bool) -> Form:
    product = inner * exponent
    if name == IMAGINARY or (opaque and not name.isdigit()):
        return generator(f"root({name}^{inner})", exponent, opaque=True)
    even_root = exponent.denominator % 2 == 0
    if even_root and inner.denominator == 1 and inner % 2 == 0 and product % 2 != 0 and not _is_constant(name):
        # The square root of x^2 is |x|, while that of x^3 exists only for positive x.
        return generator(f"abs({name})", product, opaque=True)
    joined, factor = _join(((name, product),), ())
    return Form({joined: factor}, _ONE, opaque)


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
        for prime, count in _factor(part).items():
            joined, factor = _join(((str(prime), count * direction * exponent),), ())
            result = multiply(result, Form({joined: factor}, _ONE))
    return result


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
    if exponent.bottom != _ONE or len(base.top) != 1 or base.bottom != _ONE:
        return generator(f"power({base.key},{exponent.key})", opaque=True)
    ((monomial, coefficient),) = base.top.items()
    plain = coefficient > 0 and len(monomial) <= 1 and IMAGINARY not in dict(monomial) and not base.opaque
    if not plain or (monomial and coefficient != 1):
        return generator(f"power({base.key},{exponent.key})", opaque=True)
    bases: dict[str, Fraction] = dict(monomial)
    if not monomial:
        if max(coefficient.numerator, coefficient.denominator) > MAX_FACTORED:
            raise TooComplex("a power of a large number")
        bases = {str(prime): Fraction(count) for prime, count in _factor(coefficient.numerator).items()}
        bases |= {str(prime): Fraction(-count) for prime, count in _factor(coefficient.denominator).items()}
    opaque = exponent.opaque or any(IMAGINARY in dict(term) or r"\pi" in dict(term) for term in exponent.top)
    result = Form(_ONE, _ONE, opaque)
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


def form_of(node: Node) -> Form:
    """The exact form of an expression.

    Raises:
        TooComplex: It is too large, it is not defined, or it has no value.
    """
    match node:
        case Number(value=value):
            return number(value)
        case Symbol(name=name):
            return generator(name)
        case Sum(terms=terms):
            total = number(0)
            for term in terms:
                total = add(total, form_of(term))
            return total
        case Product(factors=factors):
            product = number(1)
            for factor in factors:
                product = multiply(product, form_of(factor))
            return product
        case Power(base=base, exponent=exponent):
            return power(form_of(base), form_of(exponent))
        case Percent(value=inner):
            return multiply(form_of(inner), number(Fraction(1, 100)))
        case Degrees(value=inner):
            return multiply(form_of(inner), multiply(generator(r"\pi"), number(Fraction(1, 180))))
        case Call(name=name, arguments=arguments):
            return _call(name, [form_of(argument) for argument in arguments])
        case _:
            raise TooComplex("no single value")


def _call(name: str, arguments: list[Form]) -> Form:
    values = [argument.constant for argument in arguments]
    integers = [value.numerator for value in values if value is not None and value.denominator == 1]
    exact = len(integers) == len(arguments)
    match name, values:
        case "factorial", _ if exact and 0 <= integers[0] <= MAX_FACTORIAL:
            return number(factorial(integers[0]))
        case "binom", _ if exact and len(integers) == 2 and integers[1] >= 0 and 0 <= integers[0] <= MAX_FACTORIAL:
            return number(comb(*integers))
        case "abs", [Fraction() as value]:
            return number(abs(value))
        case "floor", [Fraction() as value]:
            return number(value.__floor__())
        case "ceil", [Fraction() as value]:
            return number(value.__ceil__())
        case "mod", _ if exact and len(integers) == 2 and integers[1] > 0:
            return generator(f"mod({integers[0] % integers[1]}, {integers[1]})", opaque=True)
        case "gcd", _ if exact and len(integers) == 2:
            return number(gcd(*integers))
        case "exp", _ if len(arguments) == 1:
            return power(generator("e"), arguments[0])
    return generator(f"{name}({', '.join(argument.key for argument in arguments)})", opaque=True)
