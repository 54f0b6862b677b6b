r"""Expressions with `\pm` and `\mp`, which stand for several values."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from reward_server.algebra.nodes import Call, Items, Node, Statement, mapped, negative
from reward_server.algebra.points import walk

MAX_SIGNS = 3
"""Double signs of one expression that are chosen one by one; with more, they are left as they stand."""


def both_signs(element: Statement) -> list[Statement]:
    r"""The values of an expression with `\pm`, as a list or inside of a set; the element itself without.

    Several `\pm` are independent: `\pm1\pm\sqrt2` has four values, and `(\pm1,\pm2)` is four points. Only with `\mp`
    they belong together.
    """
    node = element.node
    if isinstance(node, Items) and node.opening == r"\{":
        return [
            replace(element, node=replace(node, elements=tuple(one for part in node.elements for one in _all(part))))
        ]
    return [replace(element, node=one) for one in _all(node)]


def _all(node: Node) -> list[Node]:
    signs = [part.name for part in walk(node) if isinstance(part, Call) and part.name in ("pm", "mp")]
    together = "mp" in signs
    if not signs or (len(signs) > MAX_SIGNS and not together):
        return [node]
    choices = (
        [(upper,) * len(signs) for upper in (True, False)] if together else product((True, False), repeat=len(signs))
    )
    return list(dict.fromkeys(_chosen(node, iter(choice)) for choice in choices))


def _chosen(node: Node, choice: Iterator[bool]) -> Node:
    """An expression with the upper or the lower sign of each double sign."""

    def choose(one: Node) -> Node:
        if isinstance(one, Call) and one.name in ("pm", "mp"):
            (inner,) = one.arguments
            return inner if (one.name == "pm") == next(choice) else negative(inner)
        return one

    return mapped(node, choose)
