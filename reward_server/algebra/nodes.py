"""What an answer is after it was read: a tree in which every letter, word and sign of the text has its place."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Number:
    """An exact number. `decimal` says that it was written with a decimal point, and so may have been rounded."""

    value: Fraction
    decimal: bool = False


@dataclass(frozen=True)
class Symbol:
    r"""A letter with its index, such as `x`, `R` or `a_1`; or a constant: `\pi`, `e`, `i`, `\infty`."""

    name: str


@dataclass(frozen=True)
class Sum:
    """Terms that are added; a difference has a term multiplied by -1."""

    terms: "tuple[Node, ...]"


@dataclass(frozen=True)
class Product:
    """Factors that are multiplied; a quotient has a factor to the power of -1."""

    factors: "tuple[Node, ...]"


@dataclass(frozen=True)
class Power:
    """`base` to the power of `exponent`; a root has a fraction as exponent."""

    base: "Node"
    exponent: "Node"


@dataclass(frozen=True)
class Call:
    """A function of its arguments, such as `sin`, `log` (argument, base), `binom` or `f`."""

    name: str
    arguments: "tuple[Node, ...]"


ALTERNATIVES = "or"
"""The bracket of a list of values with different names that "or" joins: `x=1 or y=2` is no pair of values."""


@dataclass(frozen=True)
class Items:
    r"""Several answers, or one that has parts: `opening` is `(`, `[`, `\{`, `ALTERNATIVES`, or blank in a bare list."""

    opening: str
    closing: str
    elements: "tuple[Node, ...]"


@dataclass(frozen=True)
class Matrix:
    """Rows of entries. `determinant` says that it stands between vertical bars."""

    rows: "tuple[tuple[Node, ...], ...]"


@dataclass(frozen=True)
class Union:
    r"""Sets joined by `\cup`, in any order."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True)
class Difference:
    r"""The numbers of a set that are not in another: `\mathbb{R}\setminus\{2\}`."""

    whole: "Node"
    without: "Node"


@dataclass(frozen=True)
class Ratio:
    """Terms separated by colons: `1:2:3`."""

    terms: "tuple[Node, ...]"


@dataclass(frozen=True)
class Relation:
    r"""Sides with the signs between them: `=`, `<`, `>`, `\le`, `\ge`, `\ne`, `\in`, `\approx`."""

    sides: "tuple[Node, ...]"
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Percent:
    r"""A number followed by `\%`."""

    value: "Node"


@dataclass(frozen=True)
class Degrees:
    """A number of degrees."""

    value: "Node"


@dataclass(frozen=True)
class Words:
    """Text, in lower case, with single blanks between its words and numbers.

    `letters` is the text as written if it may also be a product of letters, and blank if it is certainly text.
    """

    text: str
    letters: str = ""


Node = (
    Number
    | Symbol
    | Sum
    | Product
    | Power
    | Call
    | Items
    | Matrix
    | Union
    | Difference
    | Ratio
    | Relation
    | Percent
    | Degrees
    | Words
)


def mapped(node: Node, change: Callable[[Node], Node]) -> Node:
    """The tree with each node replaced by what `change` makes of it, the innermost first."""

    def part(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(part(one) for one in value)
        return mapped(value, change) if isinstance(value, Node) else value

    return change(replace(node, **{name: part(value) for name, value in vars(node).items()}))


def renamed(node: Node, name: str, new: str) -> Node:
    """The tree with another name for one letter."""
    return mapped(node, lambda one: Symbol(new) if one == Symbol(name) else one)


MINUS_ONE = Number(Fraction(-1))


def negative(node: Node) -> Node:
    """The node with the opposite sign."""
    return Number(-node.value, node.decimal) if isinstance(node, Number) else Product((MINUS_ONE, node))


def quotient(top: Node, bottom: Node) -> Node:
    """Top divided by bottom."""
    return Product((top, Power(bottom, MINUS_ONE)))


@dataclass(frozen=True)
class Statement:
    r"""One reading of an answer.

    `node` is the value, without the name before it (`x` of `x = 4`), the condition behind it, and `a.m.` or `p.m.`.
    `parameter` is a letter that may be any number of a kind, and `numbers` the kind: `k` and `\mathbb{Z}`. `log_base`
    is what `\log` without a base was read as, `e` or `10`; blank if there is none. `unread` says why a text is no
    expression, if it was read as text only for that.
    """

    node: Node
    name: str = ""
    condition: str = ""
    half_day: str = ""
    radians: bool = False
    parameter: str = ""
    numbers: str = ""
    log_base: str = ""
    unread: str = ""
