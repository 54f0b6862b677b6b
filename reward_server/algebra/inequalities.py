"""Inequalities as the intervals that they say a letter is in."""

from reward_server.algebra.nodes import Call, Items, Node, Relation, Symbol, negative
from reward_server.algebra.numeric import real_value
from reward_server.algebra.points import CONSTANTS

_INFINITY = Symbol(r"\infty")
TURNED = {"<": ">", r"\le": r"\ge", ">": "<", r"\ge": r"\le", "=": "=", r"\ne": r"\ne", r"\approx": r"\approx"}
"""Signs of relations, and those that say the same with the sides exchanged."""


def as_interval(relation: Relation) -> Items | None:
    r"""The interval of a letter between bounds: `1 \le x < 2` is [1, 2). None for another relation."""
    sides, signs = relation.sides, relation.signs
    if not set(signs) <= {"<", ">", r"\le", r"\ge"}:
        return None
    if set(signs) <= {">", r"\ge"}:
        sides, signs = sides[::-1], tuple(TURNED[sign] for sign in signs[::-1])
    if not set(signs) <= {"<", r"\le"}:
        return None
    opening, closing = "(", ")"
    if len(sides) == 3 and (_is_letter(sides[1]) or _is_named_function(sides[1])):
        low, high = sides[0], sides[2]
        opening = "[" if signs[0] == r"\le" else "("
        closing = "]" if signs[1] == r"\le" else ")"
    elif len(sides) == 2 and _is_letter(sides[0]):
        low, high = negative(_INFINITY), sides[1]
        closing = "]" if signs[0] == r"\le" else ")"
    elif len(sides) == 2 and _is_letter(sides[1]):
        low, high = sides[0], _INFINITY
        opening = "[" if signs[0] == r"\le" else "("
    else:
        return None
    return Items(opening, closing, (low, high))


def unknown_of(relation: Relation) -> Node | None:
    """The letter whose bounds `as_interval` reads."""
    sides = relation.sides if len(relation.sides) != 2 or relation.signs[0] in ("<", r"\le") else relation.sides[::-1]
    if len(sides) == 3:
        return sides[1]
    return next((side for side in sides if _is_letter(side)), None)


def _is_letter(node: Node) -> bool:
    return isinstance(node, Symbol) and node.name not in CONSTANTS


def _is_named_function(node: Node) -> bool:
    """Whether a node is a function without a meaning of its own, whose values have bounds as a letter has: `f(x)`."""
    return isinstance(node, Call) and len(node.name) == 1


def is_empty(interval: Items) -> bool:
    """Whether the bounds of an interval are constants with no number between them: `5 < x < 3`."""
    low, high = (real_value(end) for end in interval.elements)
    return low is not None and high is not None and low > high
