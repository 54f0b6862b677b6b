"""Whether two trees are equal: by structure, then by exact arithmetic, then by values. None if that is left open."""

from collections.abc import Iterable

from reward_server.algebra import polynomial
from reward_server.algebra.budget import remember, remembered, spend
from reward_server.algebra.forms import form_of
from reward_server.algebra.inequalities import TURNED, as_interval, is_empty, unknown_of
from reward_server.algebra.intervals import merged_intervals
from reward_server.algebra.nodes import (
    ALTERNATIVES,
    Call,
    Degrees,
    Difference,
    Items,
    Matrix,
    Node,
    Number,
    Percent,
    Power,
    Product,
    Ratio,
    Relation,
    Sum,
    Symbol,
    Union,
    Words,
    negative,
)
from reward_server.algebra.numeric import is_undefined
from reward_server.algebra.points import children, symbols_of
from reward_server.algebra.polynomial import Form, TooComplex
from reward_server.algebra.values import as_percent, same_value, without_degrees

MAX_COMPARISONS = 3000
_INFINITY = Symbol(r"\infty")
_VERDICTS = frozenset({"yes", "no", "true", "false", "t", "f"})
_REALS = Items("(", ")", (negative(_INFINITY), _INFINITY))
SINGLE = Number | Symbol | Sum | Product | Power | Call | Percent | Degrees
"""Nodes with a value to calculate with."""


def same_nodes(one: Node, other: Node) -> bool | None:
    """Whether two nodes are equal; None if they cannot be compared here."""
    spend(10)
    match one, other:
        case Words(), Words():
            return one.letters == other.letters if one.letters and other.letters else one.text == other.text
        case (Words() as word, Product(factors=factors)) | (Product(factors=factors), Words() as word) if word.letters:
            return tuple(map(Symbol, word.letters)) == factors  # `A \cdot B` for `AB`, in this order
        case (Words(), _) | (_, Words()):
            return False
        case Relation(), Relation():
            return _same_relations(one, other)
        case Relation(), _:
            return _relation_and_other(one, other)
        case _, Relation():
            return _relation_and_other(other, one)
        case Union(parts=parts), Union(parts=others):
            return _same_unions(parts, others)
        case (Difference(), _) | (_, Difference()):
            return _same_sets(one, other)
        case Matrix(rows=rows), Matrix(rows=other_rows):
            if len(rows) != len(other_rows) or len(rows[0]) != len(other_rows[0]):
                return False
            return _all(same_nodes(a, b) for a, b in zip(sum(rows, ()), sum(other_rows, ()), strict=True))
        case Ratio(terms=terms), Ratio(terms=other_terms):
            return len(terms) == len(other_terms) and _all(map(same_nodes, terms, other_terms))
        case Items(), Items():
            joined = _joined(one), _joined(other)
            return _same_items(one, other) if joined == (one, other) else _same_sets(*joined)
        case (Union(), _) | (_, Union()) if isinstance(one, SINGLE) or isinstance(other, SINGLE):
            return None if Symbol(r"\mathbb{R}") in (one, other) else False
        case (Union(), Items()) | (Items(), Union()):
            return _same_sets(_joined(one), _joined(other))
        case Items(), _ if isinstance(other, SINGLE):
            return _item_and_single(one, other)
        case _, Items() if isinstance(one, SINGLE):
            return _item_and_single(other, one)
    if isinstance(one, SINGLE) and isinstance(other, SINGLE):
        return _same_singles(one, other)
    plain = Ratio | Matrix | SINGLE
    return False if isinstance(one, plain) and isinstance(other, plain) else None


def _all(results: Iterable[bool | None]) -> bool | None:
    """False if any result is, else None if any is, else True."""
    undecided = False
    for result in results:
        if result is False:
            return False
        undecided |= result is None
    return None if undecided else True


# Several answers


def _same_items(one: Items, other: Items) -> bool | None:
    first, second = one.elements, other.elements
    if len(first) == len(second) and has_names(first) != has_names(second):
        if ALTERNATIVES in (one.opening, other.opening):
            return False
        # Only the order says which value belongs to which name.
        return _all(map(same_nodes, in_usual_order(first), in_usual_order(second)))
    if _is_unordered(one) and _is_unordered(other):
        if all(map(_is_verdict, first)) and all(map(_is_verdict, second)):
            return len(first) == len(second) and _all(map(same_nodes, first, second))
        # Repeats count in a list of numbers, but not in a set, nor in a list of solutions that are tuples.
        if r"\{" in (one.opening, other.opening) or all(isinstance(node, Items) for node in first + second):
            if (
                _all(_is_among(element, min(first, second, key=len)) for element in max(first, second, key=len))
                is False
            ):
                return False
            first, second = _without_repeats(first), _without_repeats(second)
        return _same_in_any_order(first, second)
    if len(first) != len(second):
        return False
    if _is_interval(one) != _is_interval(other) and (_is_unordered(one) or _is_unordered(other)):
        return False
    ordered = not (_is_unordered(one) or _is_unordered(other))
    if ordered and len(first) == 2 and (one.opening, one.closing) != (other.opening, other.closing):
        return False
    return _all(map(same_nodes, first, second))


def has_names(elements: tuple[Node, ...]) -> bool:
    """Whether an element of a list says what it is called: `a=1, b=2`."""
    return any(isinstance(element, Relation) for element in elements)


def in_usual_order(elements: tuple[Node, ...]) -> tuple[Node, ...]:
    """Values with names that follow each other in the alphabet, `y=2, x=1`, in its order; others as they are."""
    names = [element.sides[0] for element in elements if isinstance(element, Relation) and element.signs == ("=",)]
    letters = [name.name for name in names if isinstance(name, Symbol) and len(name.name) == 1]
    codes = sorted(map(ord, letters))
    if len(letters) < len(elements) or codes != list(range(codes[0], codes[0] + len(codes))):
        return elements
    return tuple(element for _, element in sorted(zip(letters, elements, strict=True), key=lambda pair: pair[0]))


def _is_verdict(node: Node) -> bool:
    """Whether an element of a list answers one of several questions, whose order counts: yes, no, true, false, T, F."""
    return node.text in _VERDICTS if isinstance(node, Words) else node in (Symbol("T"), Symbol("F"))


def _is_unordered(items: Items) -> bool:
    return items.opening in ("", ALTERNATIVES, r"\{")


def _is_interval(items: Items) -> bool:
    """Whether the brackets can only be those of an interval, and not of a tuple."""
    return len(items.elements) == 2 and "".join((items.opening, items.closing)) in ("[)", "(]", "[]")


def _is_among(element: Node, others: tuple[Node, ...]) -> bool | None:
    results = [same_nodes(element, other) for other in others]
    return True if True in results else None if None in results else False


def _without_repeats(elements: tuple[Node, ...]) -> tuple[Node, ...]:
    kept: list[Node] = []
    for element in elements:
        if len(kept) > 60 or not any(same_nodes(element, one) for one in kept):
            kept.append(element)
    return tuple(kept)


def _same_in_any_order(first: tuple[Node, ...], second: tuple[Node, ...]) -> bool | None:
    if len(first) != len(second):
        return False
    if _all(map(same_nodes, first, second)):
        return True
    if len(first) ** 2 > MAX_COMPARISONS:
        return None
    left = list(second)
    undecided = False
    for element in first:
        results = [same_nodes(element, other) for other in left]
        if True in results:
            left.pop(results.index(True))
        elif None in results:
            undecided = True
        else:
            return False
    return None if undecided else True


def _item_and_single(items: Items, single: Node) -> bool | None:
    if single == Symbol(r"\mathbb{R}"):
        return same_nodes(items, _REALS)
    if len(items.elements) == 1:
        return same_nodes(items.elements[0], single)
    if not items.opening and len(items.elements) > 1:
        return False
    return None if isinstance(single, Symbol) else False


def _same_unions(parts: tuple[Node, ...], others: tuple[Node, ...]) -> bool | None:
    """Whether two unions are equal: their parts are, or they are the same set of real numbers."""
    if _same_in_any_order(parts, others):
        return True
    return _same_sets(Union(parts), Union(others))


def _joined(node: Node) -> Node:
    r"""A list of inequalities, `x < 0 \text{ or } x > 1`, as the union of their intervals; other nodes as they are."""
    if not isinstance(node, Items) or node.opening:
        return node
    relations = [element for element in node.elements if isinstance(element, Relation)]
    if not relations or any(unknown_of(relation) != unknown_of(relations[0]) for relation in relations):
        return node
    intervals = [as_interval(relation) for relation in relations]
    found = tuple(interval for interval in intervals if interval is not None)
    return Union(found) if len(found) == len(node.elements) else node


def _same_sets(one: Node, other: Node) -> bool | None:
    first, second = merged_intervals((one,)), merged_intervals((other,))
    return None if first is None or second is None else first == second


# Relations


def _relation_and_other(relation: Relation, other: Node) -> bool | None:
    if relation.signs == ("=",) and isinstance(relation.sides[0], Symbol) and not isinstance(other, Relation):
        return same_nodes(relation.sides[1], other)
    if relation.signs == (r"\ne",) and isinstance(relation.sides[0], Symbol) and not isinstance(other, SINGLE):
        return _same_sets(Difference(_REALS, Items(r"\{", r"\}", (relation.sides[1],))), other)
    interval = as_interval(relation)
    if interval is not None:
        if is_empty(interval):
            return False
        return same_nodes(interval, other) if isinstance(other, Items | Union | Difference) else False
    if isinstance(other, SINGLE) or set(relation.signs) == {"="}:
        return False
    return None


def _same_relations(one: Relation, other: Relation) -> bool | None:
    turned = Relation(other.sides[::-1], tuple(TURNED.get(sign, "") for sign in other.signs[::-1]))
    undecided = False
    for candidate in (other, turned):
        if one.signs == candidate.signs and len(one.sides) == len(candidate.sides):
            result = _all(map(same_nodes, one.sides, candidate.sides))
            if result:
                return True
            undecided |= result is None
    if len(one.signs) != 1 or len(other.signs) != 1 or one.signs[0] not in TURNED or other.signs[0] not in TURNED:
        return None if undecided or len(one.signs) > 1 or len(other.signs) > 1 else False
    if any(isinstance(side, SINGLE) and is_undefined(side) for side in one.sides + other.sides):
        return False
    first, second = _difference(one), _difference(other)
    if first is None or second is None:
        return None
    (left, sign), (right, other_sign) = first, second
    if sign != other_sign:
        return False
    factor = polynomial.proportional(left, right)
    if factor is None or factor is False:
        return factor
    if sign in ("=", r"\ne", r"\approx"):
        return True
    return None if factor is True else factor > 0


def _difference(relation: Relation) -> tuple[Form, str] | None:
    """Left side minus right side, compared with zero by `=`, `<`, `\\le` or `\\ne`; None if it has no exact form."""
    if any(_INFINITY.name in symbols_of(side) for side in relation.sides):
        return None
    try:
        left, right = (form_of(side) for side in relation.sides)
        sign = relation.signs[0]
        if sign in (">", r"\ge"):
            left, right, sign = right, left, TURNED[sign]
        difference = polynomial.add(left, polynomial.multiply(polynomial.number(-1), right))
    except TooComplex:
        return None
    if sign in ("<", r"\le") and difference.bottom != polynomial.number(1).bottom:
        return None  # the sign of the denominator is open
    return (polynomial.cleared(difference) if sign == "=" else difference), sign


# Single values


def _same_singles(one: Node, other: Node) -> bool | None:
    """Whether two values are equal, in any sensible reading of a percent sign and of degrees."""
    spend(_size(one) + _size(other))
    first, second = _end_of_chain(one), _end_of_chain(other)
    if first is None or second is None:
        return None
    one, other = first, second
    if isinstance(one, Words) or isinstance(other, Words):
        return False
    if not isinstance(one, SINGLE) or not isinstance(other, SINGLE):
        return same_nodes(one, other)
    if isinstance(one, Number) and isinstance(other, Number) and not (one.decimal or other.decimal):
        return one.value == other.value
    percents = as_percent(one), as_percent(other)
    if percents[0] is not None and percents[1] is not None:
        return same_value(percents[0], percents[1])
    for percent, rest in ((percents[0], other), (percents[1], one)):
        if isinstance(percent, Number) and percent.value.denominator == 1 and same_value(percent, rest):
            return True
    degrees = without_degrees(one), without_degrees(other)
    if degrees != (one, other) and r"\pi" not in symbols_of(degrees[0]) | symbols_of(degrees[1]):
        bare = same_value(*degrees)
        if bare or (degrees[0] != one and degrees[1] != other):
            return bare
    return same_value(one, other)


def _size(node: Node) -> int:
    """How much work it is to go through an expression several times."""
    known = remembered("size", node)
    if known is None:
        known = 8 + sum(_size(child) for child in children(node))
        remember("size", node, known)
    return int(known)


def _end_of_chain(node: Node) -> Node | None:
    """The last side of a chain of equations; `Words` if its sides are not equal, which is equal to nothing.

    None if it is open whether they are.
    """
    if not isinstance(node, Call) or node.name != "chain":
        return node
    *before, last = node.arguments
    result = _all(_same_singles(side, last) for side in before)
    if result is None:
        return None
    return last if result else Words("a false equation")
