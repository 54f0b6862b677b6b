"""The exact form of an expression, built from the forms of its parts."""

from fractions import Fraction
from math import comb, factorial, gcd

from reward_server.algebra.budget import remember, remembered, spend
from reward_server.algebra.nodes import Call, Degrees, Node, Number, Percent, Power, Product, Sum, Symbol
from reward_server.algebra.points import CONSTANTS
from reward_server.algebra.polynomial import Form, TooComplex, add, generator, multiply, number
from reward_server.algebra.powers import power

MAX_FACTORIAL = 200


def form_of(node: Node) -> Form:
    """The exact form of an expression.

    Raises:
        TooComplex: It is too large, it is not defined, or it has no value.
    """
    known = remembered("form", node)
    if known is None:
        try:
            known = _form_of(node)
        except TooComplex as error:
            known = error
        remember("form", node, known)
    if isinstance(known, TooComplex):
        raise known
    return known


def _form_of(node: Node) -> Form:
    spend(3)
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
        case Power(base=Power(base=base, exponent=inner), exponent=outer) if _is_positive(base) and _is_real(inner):
            return form_of(Power(base, Product((inner, outer))))
        case Power(base=Call(name="exp", arguments=(inner,)), exponent=outer) if _is_real(inner):
            return form_of(Power(Symbol("e"), Product((inner, outer))))
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


def _is_positive(node: Node) -> bool:
    """Whether an expression is certainly a positive number."""
    match node:
        case Number(value=value):
            return value > 0
        case Symbol(name="e" | r"\pi"):
            return True
        case Power(base=base, exponent=exponent):
            return _is_positive(base) and _is_real(exponent)
    return False


def _is_real(node: Node) -> bool:
    """Whether an expression is certainly real where its letters are."""
    match node:
        case Number() | Symbol(name="e" | r"\pi"):
            return True
        case Symbol(name=name):
            return name not in CONSTANTS
        case Sum(terms=parts) | Product(factors=parts):
            return all(_is_real(part) for part in parts)
        case Power(base=base, exponent=Number(value=value)):
            return _is_real(base) and (value.denominator == 1 or _is_positive(base))
        case Power(base=base, exponent=exponent):
            return _is_positive(base) and _is_real(exponent)
    return False


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
