"""Where expressions with absolute values, extremes and rounding change their course, which no fixed points can know."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from reward_server.algebra.evaluation import NoValue, context, is_real, value_at
from reward_server.algebra.nodes import Call, Node, Sum, negative
from reward_server.algebra.points import CONSTANTS, integer_letters, symbols_of, walk

MAX_KINKS = 8
"""How many functions with kinks are looked at."""
_FROM = (Fraction(3), Fraction(5), Fraction(7), Fraction(11), Fraction(13))
"""Values of the letters from which a kink is looked for."""
_DENOMINATOR = 10**12


def kinks(nodes: Sequence[Node]) -> Iterator[tuple[bool, Mapping[str, Fraction]]]:
    """Points at kinks of expressions, and a step before and behind each, with whether all letters are positive.

    Kinks are where an argument of `abs`, or a difference of arguments of `max` and `min`, is zero, or an argument of
    `floor` or `ceil` is an integer, as long as a letter decides that in a linear way.
    """
    parts = [part for node in nodes for part in walk(node)]
    integers = integer_letters(parts)
    letters = sorted({name for node in nodes for name in symbols_of(node)} - CONSTANTS)
    start = {letter: _FROM[index % len(_FROM)] for index, letter in enumerate(letters)}
    for switch in list(dict.fromkeys(_switches(parts)))[:MAX_KINKS]:
        for letter in sorted(symbols_of(switch) - CONSTANTS):
            kink = _zero(switch, letter, start)
            if kink is None:
                continue
            for step in (0, -1, 1):
                value = (Fraction(kink // 1) if letter in integers else kink) + step
                if value > 0 or letter not in integers:
                    yield value > 0, {**start, letter: value}


def _switches(parts: Sequence[Node]) -> Iterator[Node]:
    """Expressions that are zero, or an integer, where a function has a kink."""
    for part in parts:
        if isinstance(part, Call) and part.name in ("abs", "floor", "ceil"):
            yield part.arguments[0]
        elif isinstance(part, Call) and part.name in ("max", "min"):
            first, *others = part.arguments
            yield from (Sum((first, negative(other))) for other in others)


def _zero(node: Node, letter: str, start: Mapping[str, Fraction]) -> Fraction | None:
    """Where an expression that is linear in a letter is zero; None if it is not linear."""
    try:
        values = [value_at(node, {**start, letter: start[letter] + step}) for step in (0, 1, 2)]
    except NoValue:
        return None
    slope = values[1] - values[0]
    if not all(map(is_real, values)) or not slope or abs(values[2] - values[1] - slope) > context.mpf(10) ** -30:
        return None
    distance = context.nstr(-values[0].real / slope.real, 30)
    return start[letter] + Fraction(distance).limit_denominator(_DENOMINATOR)
