"""Whether two readings of whole answers are equal: their values, and names and conditions where both have them."""

import re
from collections.abc import Sequence
from dataclasses import replace

from reward_server.algebra.budget import OverBudget, limited
from reward_server.algebra.equality import SINGLE, same_nodes
from reward_server.algebra.nodes import Items, Node, Relation, Statement, Symbol, renamed
from reward_server.algebra.points import symbols_of
from reward_server.algebra.values import same_value, without_degrees

NUMBER_SETS = frozenset({rf"\mathbb{{{letter}}}" for letter in "NZQRC"})
_ARGUMENT = re.compile(r"([A-Za-z])\(([a-zA-Z])\)")


def same(answers: Sequence[Statement], golds: Sequence[Statement]) -> bool | None:
    """Whether any reading of an answer equals any reading of the gold; None if that is open for one of them.

    It is open, too, if it takes more work than the process that serves requests can do meanwhile.
    """
    try:
        with limited():
            return _same(answers, golds)
    except (OverBudget, RecursionError):
        return None


def _same(answers: Sequence[Statement], golds: Sequence[Statement]) -> bool | None:
    undecided = False
    for gold in golds:
        for answer in answers:
            if answer.log_base and gold.log_base and answer.log_base != gold.log_base:
                continue  # both write `\\log`, and mean the same by it
            result = same_statement(answer, gold)
            if result:
                return True
            undecided |= result is None
    return None if undecided else False


def same_statement(answer: Statement, gold: Statement) -> bool | None:
    """Whether two readings are equal, with their names, conditions and halves of the day as far as both have one."""
    if answer.half_day and gold.half_day and answer.half_day != gold.half_day:
        return False
    if answer.condition and gold.condition and answer.condition != gold.condition:
        return False
    nodes = answer.node, gold.node
    if answer.radians != gold.radians and any(map(_has_degrees, nodes)):
        return False
    in_degrees = all(isinstance(node, SINGLE) for node in nodes) and any(
        without_degrees(node) != node for node in nodes
    )
    if in_degrees and answer.radians != gold.radians:
        return same_value(*nodes)
    answer = _with_argument_of(answer, gold)
    same_parameter = _with_parameter_of(answer, gold)
    if same_parameter is None:
        return False
    answer = same_parameter
    if _names_all(answer) and (_names_all(gold) or (not gold.name and answer.name)):
        answer = _by_name(answer)
    if _names_all(gold) and (_names_all(answer) or (not answer.name and gold.name)):
        gold = _by_name(gold)
    if answer.name and gold.name and not _same_name(answer.name, gold.name):
        if not (isinstance(answer.node, SINGLE) and isinstance(gold.node, SINGLE)):
            return False
        return same_nodes(_as_relation(answer), _as_relation(gold))
    if _names_another(answer, gold) or _names_another(gold, answer):
        return False
    if isinstance(answer.node, Relation) and gold.name and not isinstance(gold.node, Items):
        return same_nodes(answer.node, _as_relation(gold))
    if isinstance(gold.node, Relation) and answer.name and not isinstance(answer.node, Items):
        return same_nodes(_as_relation(answer), gold.node)
    return same_nodes(answer.node, gold.node)


def _has_degrees(node: Node) -> bool:
    return isinstance(node, Items) and any(without_degrees(element) != element for element in node.elements)


def _names_another(one: Statement, other: Statement) -> bool:
    """Whether an element of a list has another name than the whole of the other list: `q=2, a=3` is not `a = 2, 3`."""
    if not other.name or not isinstance(one.node, Items):
        return False
    left = [element.sides[0] for element in one.node.elements if isinstance(element, Relation)]
    return any(isinstance(side, Symbol) and not _same_name(side.name, other.name) for side in left)


def _with_argument_of(answer: Statement, gold: Statement) -> Statement:
    """The answer with the letter of the gold as its argument: `f(t) = 2t` says the same as `f(x) = 2x`."""
    one, other = _ARGUMENT.fullmatch(answer.name), _ARGUMENT.fullmatch(gold.name)
    if one is None or other is None or one[1] != other[1] or one[2] == other[2]:
        return answer
    if other[2] in symbols_of(answer.node):
        return answer
    return replace(answer, name=gold.name, node=renamed(answer.node, one[2], other[2]))


def _with_parameter_of(answer: Statement, gold: Statement) -> Statement | None:
    """The answer with the gold's letter for any integer, or any other number: `n\\pi` says what `k\\pi` says.

    Returns:
        None if the letters do not correspond: one is used for something else, or they stand for other numbers.
    """
    letter, other = answer.parameter, gold.parameter
    if not letter or not other:
        return answer
    if answer.numbers != gold.numbers and {answer.numbers, gold.numbers} <= NUMBER_SETS:
        return None
    used, known = symbols_of(answer.node), symbols_of(gold.node)
    if letter == other or letter not in used or other not in known:
        return answer
    if other in used or letter in known or answer.name.startswith(f"{letter}_"):
        return None
    return replace(answer, node=renamed(answer.node, letter, other))


def _names_all(statement: Statement) -> bool:
    """Whether a reading names each of several values: `(a,b)=(1,2)`, or `a=1, b=2`."""
    node = statement.node
    if not isinstance(node, Items) or not node.elements:
        return False
    if statement.name:
        return node.opening == "(" and statement.name.count(",") + 1 == len(node.elements)
    return not node.opening and all(isinstance(one, Relation) and one.signs == ("=",) for one in node.elements)


def _by_name(statement: Statement) -> Statement:
    """`(a,b)=(1,2)` as `a=1, b=2`, in which the order says nothing."""
    if not statement.name or not isinstance(statement.node, Items):
        return statement
    names = statement.name.strip("()").split(",")
    named = zip(names, statement.node.elements, strict=True)
    elements = tuple(Relation((Symbol(name), element), ("=",)) for name, element in named)
    return replace(statement, name="", node=Items("", "", elements))


def _same_name(one: str, other: str) -> bool:
    """Whether two names may mean the same: a function with and without its argument, a word, or y and f(x)."""
    shorter, longer = sorted((one, other), key=len)
    if shorter == longer or longer.startswith(f"{shorter}("):
        return True
    words = [_words_of_name(name) for name in (one, other)]
    if any(words):
        return not all(words) or words[0] == words[1]  # a word, such as `Area`, and a letter for it
    return shorter == "y" and longer in ("f(x)", "g(x)", "h(x)")


def _words_of_name(name: str) -> list[str]:
    """The words of a name that is text, without articles; none of another name."""
    text = " " in name or (len(name) > 2 and name.isalpha() and not name.isupper())
    return (
        [word for word in name.lower().split() if word not in ("the", "a", "an")] if text and "\\" not in name else []
    )


def _as_relation(statement: Statement) -> Node:
    return Relation((Symbol(statement.name), statement.node), ("=",))
