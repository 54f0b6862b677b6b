"""Exact evaluation of arithmetic expressions from a policy, in bounded time.

The text is untrusted: reinforcement learning finds whatever exploits the grader. It is therefore never passed to
`eval`. Only digits, operators, parentheses, decimal points and spaces reach the parser, sizes are limited before it
runs, and the syntax tree is evaluated in exact fractions.
"""

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 1000
"""Maximum length of an expression, in characters."""
MAX_OPERATORS = 100
"""Maximum number of + - * / in an expression. It also bounds the number of literals and the depth of the tree."""
MAX_NESTING = 50
"""Maximum nesting depth of parentheses."""
MAX_LITERAL_CHARS = 30
"""Maximum length of a number, in characters including the decimal point."""

_ALLOWED = frozenset("0123456789+-*/(). ")
_LITERAL = re.compile(r"[0-9.]+")

_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_UNARY: dict[type[ast.unaryop], Callable[[Fraction], Fraction]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class ExpressionError(ValueError):
    """The text is not an expression of + - * / over decimal numbers, or exceeds the size limits."""


class DivisionByZero(ExpressionError):
    """The expression divides by zero."""


@dataclass(frozen=True)
class Arithmetic:
    """An evaluated expression.

    `literals` are its numbers as written, from left to right: "3", "3.0" and "3." are three different literals.
    """

    value: Fraction
    literals: tuple[str, ...]


def evaluate(expression: str) -> Arithmetic:
    """Evaluate an expression of decimal numbers, + - * / (+ and - also as signs), parentheses and spaces.

    Args:
        expression: At most `MAX_CHARS` characters; surrounding spaces are ignored.

    Raises:
        DivisionByZero: A divisor is exactly zero.
        ExpressionError: Other characters, powers, calls, an empty text, or a size limit is exceeded.

    Example:
        >>> evaluate("3 * (5 + 7) / 8")
        Arithmetic(value=Fraction(9, 2), literals=('3', '5', '7', '8'))
    """
    source = expression.strip(" ")
    literals = _read_literals(source)
    try:
        tree = ast.parse(source, mode="eval")
    except SyntaxError as error:
        raise ExpressionError(f"not an arithmetic expression: {error.msg}") from error
    return Arithmetic(_compute(tree.body, source), literals)


def _read_literals(source: str) -> tuple[str, ...]:
    """The literals of `source`, after checking in linear time that it is small enough to parse."""
    if len(source) > MAX_CHARS:
        raise ExpressionError(f"{len(source)} characters, the limit is {MAX_CHARS}")
    foreign = set(source) - _ALLOWED
    if foreign:
        raise ExpressionError(f"characters other than digits + - * / ( ) . and spaces: {sorted(foreign)}")
    if sum(source.count(sign) for sign in "+-*/") > MAX_OPERATORS:
        raise ExpressionError(f"more than {MAX_OPERATORS} operators")
    if _nesting(source) > MAX_NESTING:
        raise ExpressionError(f"more than {MAX_NESTING} nested parentheses")
    literals = tuple(_LITERAL.findall(source))
    if any(len(literal) > MAX_LITERAL_CHARS for literal in literals):
        raise ExpressionError(f"a number of more than {MAX_LITERAL_CHARS} characters")
    return literals


def _nesting(source: str) -> int:
    """Maximum nesting depth of parentheses."""
    deepest = depth = 0
    for char in source:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    return deepest


def _compute(node: ast.expr, source: str) -> Fraction:
    """Value of a syntax tree. Node types that are not listed here are rejected."""
    match node:
        case ast.Constant(value=int() | float()):
            # Parse the source text, not node.value: 0.1 is one tenth, not the nearest float.
            return Fraction(source[node.col_offset : node.end_col_offset])
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_compute(operand, source))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
            try:
                return _BINARY[type(op)](_compute(left, source), _compute(right, source))
            except ZeroDivisionError as error:
                raise DivisionByZero("division by zero") from error
        case _:
            raise ExpressionError(f"{type(node).__name__} is not one of + - * / over numbers")
