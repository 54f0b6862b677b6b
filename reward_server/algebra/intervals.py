r"""Unions of intervals and finite sets of real numbers, in a form that is the same for equal unions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reward_server.algebra.budget import spend
from reward_server.algebra.nodes import Difference, Items, Node, Symbol, Union, negative
from reward_server.algebra.numeric import real_value

_INFINITY = Symbol(r"\infty")


@dataclass(frozen=True)
class Interval:
    """The real numbers between two ends, each of which belongs to it or not. A single number is closed at both ends."""

    low: Any
    low_closed: bool
    high: Any
    high_closed: bool


def merged_intervals(parts: Sequence[Node]) -> list[Interval] | None:
    """The intervals that make up a union, in order, with those that touch joined.

    Returns:
        None if an end is no constant, or a part is no interval and no set of numbers: then only symbolic computation
        can tell.
    """
    intervals: list[Interval] = []
    for part in parts:
        found = _intervals(part)
        if found is None:
            return None
        intervals += found
    if any(one.low > one.high for one in intervals):
        return None
    intervals.sort(key=lambda one: (one.low, not one.low_closed))
    merged: list[Interval] = []
    for one in intervals:
        last = merged[-1] if merged else None
        if last and (one.low < last.high or (one.low == last.high and (one.low_closed or last.high_closed))):
            further = (one.high, one.high_closed) > (last.high, last.high_closed)
            high, closed = (one.high, one.high_closed) if further else (last.high, last.high_closed)
            merged[-1] = Interval(last.low, last.low_closed, high, closed)
        else:
            merged.append(one)
    return merged


def _intervals(part: Node) -> list[Interval] | None:
    if isinstance(part, Union):
        return merged_intervals(part.parts)
    if isinstance(part, Difference):
        return _difference(part)
    if part == Symbol(r"\mathbb{R}"):
        return [Interval(float("-inf"), False, float("inf"), False)]
    if not isinstance(part, Items):
        return None
    ends = [_end(element) for element in part.elements]
    if any(end is None for end in ends):
        return None
    if part.opening == r"\{":
        return [Interval(end, True, end, True) for end in ends]
    if len(ends) != 2 or part.opening not in ("(", "["):
        return None
    return [Interval(ends[0], part.opening == "[", ends[1], part.closing == "]")]


def _difference(node: Difference) -> list[Interval] | None:
    """The intervals of a set without some numbers; None if more than single numbers are taken out."""
    whole, points = _intervals(node.whole), _intervals(node.without)
    if whole is None or points is None or any(point.low != point.high for point in points):
        return None
    for point in points:
        spend(5 * len(whole))
        parts: list[Interval] = []
        for one in whole:
            if one.low < point.low < one.high:
                parts.append(Interval(one.low, one.low_closed, point.low, False))
                parts.append(Interval(point.low, False, one.high, one.high_closed))
            elif not one.low == one.high == point.low:
                low_closed = one.low_closed and one.low != point.low
                parts.append(Interval(one.low, low_closed, one.high, one.high_closed and one.high != point.low))
        whole = parts
    return whole


def _end(node: Node) -> Any:
    """The value of an end, rounded so that equal ends are the same; None if it is no real constant."""
    if node == _INFINITY:
        return float("inf")
    if node == negative(_INFINITY):
        return float("-inf")
    return real_value(node)
