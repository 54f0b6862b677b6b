"""Exact arithmetic on fractions of polynomials, in which equal values have equal forms.

The generators are letters, constants, primes with fractional exponents (roots), and whatever else has no algebraic
rule here (a sine, a nested root), which is opaque. Letters under a root count as positive, as everywhere where a root
is to be real; only an even power under an even root becomes an absolute value. Different forms without opaque
generators are different values; with them, they may still be equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from reward_server.algebra.budget import spend

Monomial = tuple[tuple[str, Fraction], ...]
Terms = dict[Monomial, Fraction]

MAX_TERMS = 300
MAX_BITS = 4000
"""Maximum size of a number, in bits."""
MAX_NAME_CHARS = 3000
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
        if self.bottom != ONE or any(self.top) or len(self.top) > 1:
            return None
        return self.top.get((), Fraction(0))

    @property
    def key(self) -> str:
        """A text that is the same for equal forms with the same denominators."""
        names = sum(40 + len(name) for part in (self.top, self.bottom) for monomial in part for name, _ in monomial)
        spend(3 + names // 10)
        return f"{sorted(self.top.items())}/{sorted(self.bottom.items())}"


ONE: Terms = {(): Fraction(1)}


def number(value: Fraction | int) -> Form:
    """The form of a rational number."""
    return Form({(): Fraction(value)} if value else {}, ONE)


def generator(name: str, exponent: Fraction = Fraction(1), opaque: bool = False) -> Form:
    """The form of a single generator to a power.

    Raises:
        TooComplex: Its name, which contains the forms of its arguments, is too long.
    """
    if len(name) > MAX_NAME_CHARS:
        raise TooComplex("functions are nested too deep")
    return Form({((name, exponent),): Fraction(1)}, ONE, opaque)


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
    spend(5 + len(one.top))
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


def cleared(form: Form) -> Form:
    """A form that is to be zero, times the letters by which it is divided: `y - 1/x` is `xy - 1`.

    The form itself if one of the letters could then be zero, so that there would be more solutions: y/x = 1 excludes
    x = 0, and y = x does not.
    """
    lowest: dict[str, Fraction] = {}
    for monomial in form.top:
        for name, exponent in monomial:
            lowest[name] = min(lowest.get(name, Fraction(0)), exponent)
    divided = {name: -exponent for name, exponent in lowest.items() if exponent < 0}
    top = _multiply(form.top, {tuple(sorted(divided.items())): Fraction(1)})
    for name in divided:
        rest = [monomial for monomial in top if name not in dict(monomial)]
        if len(rest) != 1 or not all(is_constant(other) for other, _ in rest[0]):
            return form
    return Form(top, form.bottom, form.opaque)


def _by_letters(terms: Mapping[Monomial, Fraction]) -> dict[Monomial, Terms]:
    """The coefficient, free of letters, of each product of letters."""
    parts: dict[Monomial, Terms] = {}
    for monomial, coefficient in terms.items():
        letters = tuple(pair for pair in monomial if not is_constant(pair[0]))
        rest = tuple(pair for pair in monomial if is_constant(pair[0]))
        parts.setdefault(letters, {})[rest] = coefficient
    return parts


def is_constant(name: str) -> bool:
    """Whether a generator is a prime or a constant."""
    return name.isdigit() or name in (IMAGINARY, "e", r"\pi")


def _form(top: Mapping[Monomial, Fraction], bottom: Mapping[Monomial, Fraction], opaque: bool) -> Form:
    """Divide by a denominator of one term, which keeps most denominators at one."""
    if len(bottom) == 1:
        ((monomial, coefficient),) = bottom.items()
        if monomial or coefficient != 1:
            inverse = {tuple((name, -exponent) for name, exponent in monomial): 1 / coefficient}
            return Form(_multiply(top, inverse), ONE, opaque)
    return Form(top, bottom, opaque)


def _add(one: Mapping[Monomial, Fraction], other: Mapping[Monomial, Fraction]) -> Terms:
    spend(len(one) + 3 * len(other))
    total = dict(one)
    for monomial, coefficient in other.items():
        value = total.get(monomial, Fraction(0)) + coefficient
        if value:
            total[monomial] = value
        else:
            total.pop(monomial, None)
    return _check(total)


def _multiply(one: Mapping[Monomial, Fraction], other: Mapping[Monomial, Fraction]) -> Terms:
    if other == ONE:
        return dict(one)
    if one == ONE:
        return dict(other)
    if len(one) * len(other) > MAX_TERMS * 10:
        raise TooComplex("too many terms")
    generators = max(map(len, one), default=0) + max(map(len, other), default=0)
    spend(len(one) * len(other) * (3 + 3 * generators // 2 + (_bits(one) + _bits(other)) // 200))
    total: Terms = {}
    for first, a in one.items():
        for second, b in other.items():
            monomial, factor = join(first, second) if first or second else ((), Fraction(1))
            value = total.get(monomial, Fraction(0)) + a * b * factor
            if value:
                total[monomial] = value
            else:
                total.pop(monomial, None)
    return _check(total)


def _bits(terms: Mapping[Monomial, Fraction]) -> int:
    """Size of the largest coefficient."""
    return max((c.numerator.bit_length() + c.denominator.bit_length() for c in terms.values()), default=0)


def _check(terms: Terms) -> Terms:
    if len(terms) > MAX_TERMS:
        raise TooComplex("too many terms")
    if _bits(terms) > MAX_BITS:
        raise TooComplex("a number is too large")
    return terms


def join(first: Monomial, second: Monomial) -> tuple[Monomial, Fraction]:
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
