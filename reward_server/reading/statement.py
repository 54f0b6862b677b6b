r"""Reads a whole answer: one expression, or a list, relation, ratio, condition or text made of expressions.

An answer can have several sensible readings: `24,300` is a number or a list, `5\text{ m}` has a unit or a letter. All
of them are returned; comparing decides, since the other side may say which was meant.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product as pairs_of

from reward_server.algebra.budget import limited
from reward_server.algebra.inequalities import as_interval, unknown_of
from reward_server.algebra.nodes import (
    ALTERNATIVES,
    Call,
    Items,
    Node,
    Number,
    Ratio,
    Relation,
    Statement,
    Symbol,
    Words,
    mapped,
    negative,
)
from reward_server.algebra.numeric import close_values
from reward_server.algebra.points import CONSTANTS, symbols_of
from reward_server.algebra.statements import same
from reward_server.grading.notation import unify
from reward_server.reading.conditions import RELATIONS, parameter_of, take_condition, text_of
from reward_server.reading.double_signs import both_signs
from reward_server.reading.names import name_of
from reward_server.reading.parser import Parser
from reward_server.reading.texts import (
    has_order,
    is_range,
    is_text,
    literal_text,
    phrase_of,
    whole_words,
    words_of,
)
from reward_server.reading.token_groups import is_sign, split_at
from reward_server.reading.tokens import (
    CLOSING,
    MAX_TOKENS,
    OPENING,
    Token,
    Unreadable,
    has_plain_thousands,
    has_scientific,
    tokenize,
)
from reward_server.vocabulary import (
    NUMBER_WORDS,
    is_half_day,
    plain_words,
)

MAX_ALTERNATIVES = 4
"""Values joined by "or" that are compared with each other; of more, only those are dropped that look the same."""


def read(text: str, gold: bool) -> list[Statement]:
    """All sensible readings of an answer, the most literal one first; empty if it cannot be read without a loss.

    Args:
        text: LaTeX, without dollar signs in the middle.
        gold: Whether this is the known answer. A unit without `\\text` is read as one in a gold only after a blank:
            the gold `7ml` is a product, `12 cm` a length. And the letters of a gold that may be a word have an order.
    """
    if is_range(text):
        return [Statement(Words(unify(text)), unread="a range of numbers")]
    text = unify(text)
    if len(text) > MAX_TOKENS:
        return []
    literal = literal_text(text)
    if literal:
        return [Statement(Words(literal))]
    whole = whole_words(text)
    readings: list[Statement] = []
    if whole:
        certain = is_text(text)
        readings = [Statement(one) for one in words_of(whole, certain)]
        if certain or (gold and has_order(whole)):
            return readings
    commas = (True, False) if has_plain_thousands(text) else (True,)
    exponents = (not gold, False) if has_scientific(text) else (True,)
    unread = ""
    for thousands, scientific in pairs_of(commas, exponents):
        try:
            tokens = tokenize(text, thousands, scientific=scientific)
        except Unreadable as error:
            unread = unread or str(error)
            continue
        for units in (False, True):
            if units and gold and not _unit_may_stand_alone(tokens):
                continue
            try:
                statement = _read_tokens(tokens, units)
            except (Unreadable, RecursionError) as error:
                unread = unread or str(error)
                continue
            for one in _bases_of_logarithms(statement) if "log" in text else [statement]:
                if one not in readings:
                    readings.insert(len(readings) - bool(whole), one)
    return readings or _as_phrase(text, unread)


def _as_phrase(text: str, unread: str) -> list[Statement]:
    try:
        phrase = phrase_of(tokenize(text))
    except (Unreadable, RecursionError):
        phrase = ""
    return [Statement(Words(phrase), unread=unread)] if phrase else []


def _bases_of_logarithms(statement: Statement) -> list[Statement]:
    r"""The readings of every `\log` without a base as natural, and as to base 10; the statement itself without one."""
    to_ten = mapped(statement.node, _with_base_ten)
    if to_ten == statement.node:
        return [statement]
    return [replace(statement, log_base="e"), replace(statement, node=to_ten, log_base="10")]


def _with_base_ten(node: Node) -> Node:
    if isinstance(node, Call) and node.name == "log" and len(node.arguments) == 1:
        return replace(node, arguments=(*node.arguments, Number(Fraction(10))))
    return node


def _unit_may_stand_alone(tokens: Sequence[Token]) -> bool:
    """Whether a unit without `\\text` stands behind a blank, or an upright letter behind a number."""
    return any((token.kind == "run" and token.spaced) or (token.upright and token.kind == "letter") for token in tokens)


def _read_tokens(tokens: list[Token], units: bool) -> Statement:
    tokens, half_day = _take_half_day(tokens)
    tokens, behind = take_condition(tokens)
    condition, (parameter, numbers) = (text_of(behind), parameter_of(behind)) if behind else ("", ("", ""))
    described = _set_builder(tokens)
    if described:
        return replace(_relation(described, units), name="")
    elements = _elements(tokens, units)
    if any(token.text in (r"\pm", r"\mp") for token in tokens):
        elements = [one for element in elements for one in both_signs(element)]
    if any(is_sign(token, "or") for token in tokens):
        elements = _without_equals(elements)  # `x=4 or x=4` says no more than `x=4`
    if not elements:
        raise Unreadable("nothing but separators and conditions")
    if any(is_sign(token, ",") and token.upright for token in tokens):
        elements = _both(elements)
    either = any(is_sign(token, "or") for token in tokens)
    whole = elements[0] if len(elements) == 1 else _list_of(elements, ALTERNATIVES if either else "")
    radians = any(
        token.kind == "words" and {"rad", "radian", "radians"} & set(plain_words(token.text)) for token in tokens
    )
    return replace(whole, condition=condition, half_day=half_day, radians=radians, parameter=parameter, numbers=numbers)


def _without_equals(elements: list[Statement]) -> list[Statement]:
    """The elements without those of the same name that have the value of an earlier one: `3/4 or 0.75` is 3/4."""
    kept = list(dict.fromkeys(elements))
    if len(kept) > MAX_ALTERNATIVES:
        return kept
    different: list[Statement] = []
    with limited():
        for element in kept:
            if not any(one.name == element.name and same([one], [element]) for one in different):
                different.append(element)
    return different


def _both(elements: list[Statement]) -> list[Statement]:
    """Two bounds of the same letter that the word "and" joins, as one relation; others as they are."""
    nodes = [element.node for element in elements if isinstance(element.node, Relation)]
    intervals = [as_interval(node) for node in nodes]
    if len(elements) != 2 or len(nodes) != 2 or None in intervals or unknown_of(nodes[0]) != unknown_of(nodes[1]):
        return elements
    lows = [one for one in intervals if one and one.elements[0] != negative(Symbol(r"\infty"))]
    highs = [one for one in intervals if one and one.elements[1] != Symbol(r"\infty")]
    letter = unknown_of(nodes[0])
    if len(lows) != 1 or len(highs) != 1 or letter is None:
        raise Unreadable("two bounds of one side")
    signs = (r"\le" if lows[0].opening == "[" else "<", r"\le" if highs[0].closing == "]" else "<")
    return [Statement(Relation((lows[0].elements[0], letter, highs[0].elements[1]), signs))]


def _elements(tokens: list[Token], units: bool) -> list[Statement]:
    """The elements of a list without brackets. Groups of commas between semicolons are tuples: `p=5,q=2;p=7,q=2`."""
    groups = [split_at(group, ",", "or") for group in split_at(tokens, ";")]
    if len(groups) > 1 and all(len(parts) > 1 for parts in groups):
        tuples = [tuple(_relation(part, units).node for part in parts) for parts in groups]
        return [Statement(Items("(", ")", nodes)) for nodes in tuples]
    parts = [part for group in groups for part in group if part]
    return [_relation(part, units) for part in _without_restatement(parts)]


def _list_of(elements: list[Statement], joined: str) -> Statement:
    """A list, which has the name of its first element if no element has another (`a=1, -2`); else they keep theirs.

    `joined` is the bracket of a list of several names.
    """
    names = {element.name for element in elements} - {""}
    if not names:
        return Statement(Items("", "", tuple(element.node for element in elements)))
    if len(names) == 1 and elements[0].name:
        return Statement(Items("", "", tuple(element.node for element in elements)), elements[0].name)
    nodes = (
        Relation((Symbol(element.name), element.node), ("=",)) if element.name else element.node for element in elements
    )
    bracket = joined if len(names) > 1 else ""
    return Statement(Items(bracket, bracket, tuple(nodes)))


def _set_builder(tokens: list[Token]) -> list[Token]:
    r"""The condition of a set such as `\{x \mid x > 2\}`; empty for anything else."""
    if len(tokens) < 5 or tokens[0].text != r"\{" or tokens[-1].text != r"\}":
        return []
    bars = [index for index, token in enumerate(tokens) if token.text in (r"\mid", "|", ":")]
    before = [token.text for token in tokens[1 : bars[0]]] if bars else []
    if not before or before[1:] not in ([], [r"\in", r"\mathbb{R}"]) or not name_of(tokens[1:2]):
        return []  # `\{x+1 \mid x>2\}` is another set than its condition says
    inner = tokens[bars[0] + 1 : -1]
    if before[0] not in [token.text for token in inner]:
        return []
    return inner if any(token.text in RELATIONS - {"="} for token in inner) else []


def _without_restatement(parts: list[list[Token]]) -> list[list[Token]]:
    """The parts of a list of two without a number in words that the other part repeats in digits: `eight, 8` is 8."""
    if len(parts) != 2 or any(len(part) != 1 for part in parts):
        return parts
    for (word,), other in (parts, parts[::-1]):
        if word.kind in ("run", "words") and other[0].kind == "number":
            names = plain_words(word.text)
            if len(names) == 1 and NUMBER_WORDS.get(names[0]) == other[0].text:
                return [other]
    return parts


def _take_half_day(tokens: list[Token]) -> tuple[list[Token], str]:
    last = tokens[-1] if tokens else Token("sign", "")
    half_day = is_half_day(last.text) if last.kind == "words" else ""
    return (tokens[:-1], half_day) if half_day and len(tokens) > 1 else (tokens, "")


def _relation(tokens: list[Token], units: bool) -> Statement:
    """One element of a list: an expression, a ratio, or sides with relations between them."""
    sides, signs = sides_of(tokens)
    if r"\approx" in signs:
        first = signs.index(r"\approx") + 1
        exact = sides[first - 1]
        if not name_of(exact) and all(_is_rounding(side, _value(exact, units)) for side in sides[first:]):
            length = sum(map(len, sides[:first])) + first - 1
            return _relation(tokens[:length], units)
    name = name_of(sides[0], sides[-1]) if len(sides) > 1 else ""
    if signs and name and (all(sign in ("=", r"\approx") for sign in signs) or signs == [r"\in"]):
        if signs == [r"\in"]:
            return Statement(_value(sides[-1], units), name)
        return _chain(sides, signs, name, units)
    if len(sides) == 1 and _is_half_open(tokens[1:]) and tokens[0].kind == "letter":
        return Statement(_value(tokens[1:], units), tokens[0].text)  # `t(0,4]` can only mean that t is in the interval
    if len(sides) == 1:
        return Statement(_value(sides[0], units))
    nodes = tuple(_value(side, units) for side in sides)
    if set(signs) == {"="} and _is_name(nodes[-1], sides[-1]) and not _has_letters(nodes[0]) and len(sides) == 2:
        return Statement(nodes[0], name_of(sides[-1]))
    if set(signs) <= {"=", r"\approx"} and not any(_has_letters(node) for node in nodes):
        return Statement(Call("chain", nodes))
    return Statement(Relation(nodes, tuple(signs)))


def _is_rounding(tokens: Sequence[Token], exact: Node) -> bool:
    """Whether a side is a decimal that an exact value rounds to."""
    found = re.fullmatch(r"(-?)(\d+(?:\.(\d+))?)", "".join(token.text for token in tokens))
    if found is None or _has_letters(exact):
        return False
    value = Fraction(found[2]) * (-1 if found[1] else 1)
    half = Fraction(10**9 + 1, 2 * 10 ** (9 + len(found[3] or "")))  # a half may be rounded either way
    return bool(close_values(exact, Number(value, decimal=True), half, Fraction(1)))


def _is_half_open(tokens: Sequence[Token]) -> bool:
    """Whether tokens are a bracket of one kind up to one of the other kind, and none between them."""
    if len(tokens) < 3 or (tokens[0].text, tokens[-1].text) not in (("(", "]"), ("[", ")")):
        return False
    return not any(token.text in ("(", ")", "[", "]") for token in tokens[1:-1])


def sides_of(tokens: Sequence[Token]) -> tuple[list[list[Token]], list[str]]:
    """Split at relations outside of all brackets: the sides, and the signs between them.

    Raises:
        Unreadable: A side is missing.
    """
    sides: list[list[Token]] = [[]]
    signs: list[str] = []
    depth = 0
    for token in tokens:
        depth += (token.text in OPENING) - (token.text in CLOSING)
        if depth == 0 and token.kind != "words" and token.text in RELATIONS:
            signs.append(token.text)
            sides.append([])
        else:
            sides[-1].append(token)
    if signs and any(not side for side in sides):
        raise Unreadable("a relation without one of its sides")
    return sides, signs


def _chain(sides: list[list[Token]], signs: list[str], name: str, units: bool) -> Statement:
    """`name = ... = value`: the value is the last side, and sides before it that are numbers must be equal to it."""
    nodes: list[Node] = []
    for side in sides[1:]:
        try:
            nodes.append(_value(side, units))
        except Unreadable:
            if side is sides[-1] or not name_of(side):
                raise
    values = [node for node in nodes[:-1] if not _has_letters(node)]
    return Statement(Call("chain", (*values, nodes[-1])) if values else nodes[-1], name)


def _value(tokens: Sequence[Token], units: bool) -> Node:
    """A single expression or a ratio; all tokens must be read."""
    terms = split_at(tokens, ":")
    nodes = []
    for term in terms:
        parser = Parser(term, units)
        node = parser.element()
        if not parser.done:
            raise Unreadable(f"{parser.peek().text!r} behind an expression")
        nodes.append(node)
    return nodes[0] if len(nodes) == 1 else Ratio(tuple(nodes))


def _is_name(node: Node, tokens: Sequence[Token]) -> bool:
    return isinstance(node, Symbol) and bool(name_of(tokens))


def _has_letters(node: Node) -> bool:
    return not isinstance(node, Number) and (
        isinstance(node, Items | Ratio | Relation | Words) or bool(symbols_of(node) - CONSTANTS)
    )
