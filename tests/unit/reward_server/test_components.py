"""What the countdown task is made of: exact arithmetic and tags, on hostile text. Expected values are by hand."""

import ast
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_server.components.arithmetic import (
    MAX_CHARS,
    MAX_LITERAL_CHARS,
    MAX_NESTING,
    MAX_OPERATORS,
    DivisionByZero,
    ExpressionError,
    evaluate,
)
from reward_server.components.tags import find_answer, find_thinking, has_think_answer_layout

# Arithmetic


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3*5+7", Fraction(22)),
        ("2+3*4", Fraction(14)),
        ("(2+3)*4", Fraction(20)),
        ("8-4-2", Fraction(2)),
        ("8/4/2", Fraction(1)),
        ("1/3+1/3+1/3", Fraction(1)),
        ("-3+8", Fraction(5)),
        ("2--3", Fraction(5)),
        ("+4", Fraction(4)),
        ("0.1+0.2", Fraction(3, 10)),
        (".5*4.", Fraction(2)),
        ("  7  ", Fraction(7)),
    ],
)
def test_evaluate_is_exact(expression: str, value: Fraction) -> None:
    """Catches wrong precedence or associativity, and floats anywhere: 1/3 three times and 0.1 + 0.2 are exact."""
    assert evaluate(expression).value == value


def test_evaluate_keeps_literals_as_written() -> None:
    """Catches literals that were normalised, which would let 3.0 or 3. pass for 3."""
    assert evaluate("(3. + 3.0) * 3 - .3").literals == ("3.", "3.0", "3", ".3")


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "7//2",
        "__import__('os').system('true')",
        "abs(3)",
        "3(5)",
        "(3)(5)",
        "x",
        "(x:=3)",
        "1e9",
        "0x10",
        "1_000",
        "3%2",
        "3=3",
        "3==3",
        "3,5",
        "()",
        "...",
        "1.2.3",
        "03",
        "3 5",
        "3+",
        "((3)",
        "3)",
        "",
        "   ",
        "3\n+5",
        "3\t+5",
        "3\x00",
        "\u0663+\u0665",
        "\uff13+5",
        "3\u00d75",
        "3\u20125",
        "3\u200b+5",
    ],
)
def test_evaluate_refuses_everything_else(expression: str) -> None:
    """Catches a widened whitelist: powers, calls, names, walrus, comparisons, other digits, invisible characters."""
    with pytest.raises(ExpressionError):
        evaluate(expression)


@pytest.mark.parametrize("expression", ["1/0", "5/(3-3)", "0/0", "1/(0.5-1/2)"])
def test_division_by_zero_has_its_own_error(expression: str) -> None:
    """Catches a ZeroDivisionError that escapes and takes the whole batch with it."""
    with pytest.raises(DivisionByZero):
        evaluate(expression)


@pytest.mark.parametrize(
    ("largest", "too_large"),
    [
        ("1" + " " * (MAX_CHARS - 3) + "+1", "1" + " " * (MAX_CHARS - 2) + "+1"),
        ("1" + " +1" * MAX_OPERATORS, "1" + " +1" * (MAX_OPERATORS + 1)),
        ("-" * MAX_OPERATORS + "1", "-" * (MAX_OPERATORS + 1) + "1"),
        ("(" * MAX_NESTING + "1" + ")" * MAX_NESTING, "(" * (MAX_NESTING + 1) + "1" + ")" * (MAX_NESTING + 1)),
        ("9" * MAX_LITERAL_CHARS, "9" * (MAX_LITERAL_CHARS + 1)),
    ],
)
def test_sizes_are_capped_exactly(largest: str, too_large: str) -> None:
    """Catches a cap that is off by one, missing, or so high that the parser itself gives up first."""
    evaluate(largest)
    with pytest.raises(ExpressionError, match=r"limit|more than"):
        evaluate(too_large)


@pytest.mark.parametrize("text", ["1" * 1001, "(" * 51, "9*" * 101 + "9", "1+" * 400 + "1"])
def test_limits_are_checked_before_parsing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches limits that are applied after the parse, where nesting and digits cost too much."""
    monkeypatch.setattr(ast, "parse", None)
    with pytest.raises(ExpressionError):
        evaluate(text)


Tree = int | tuple[str, "Tree", "Tree"]
trees: st.SearchStrategy[Tree] = st.recursive(
    st.integers(0, 50), lambda inner: st.tuples(st.sampled_from("+-*/"), inner, inner), max_leaves=12
)


def write(tree: Tree) -> str:
    """Fully parenthesised text of a tree."""
    return str(tree) if isinstance(tree, int) else f"({write(tree[1])} {tree[0]} {write(tree[2])})"


def compute(tree: Tree) -> Fraction:
    """Value of a tree, without any parsing."""
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = compute(tree[1]), compute(tree[2])
    return {"+": left + right, "-": left - right, "*": left * right}[tree[0]] if tree[0] != "/" else left / right


def leaves(tree: Tree) -> list[str]:
    """Numbers of a tree from left to right."""
    return [str(tree)] if isinstance(tree, int) else leaves(tree[1]) + leaves(tree[2])


@settings(deadline=None)
@given(trees)
def test_evaluate_agrees_with_the_tree_that_was_written(tree: Tree) -> None:
    """Catches swapped operands, a lost literal, and any difference from exact fractions."""
    try:
        expected = compute(tree)
    except ZeroDivisionError:
        with pytest.raises(DivisionByZero):
            evaluate(write(tree))
        return
    result = evaluate(write(tree))
    assert (result.value, list(result.literals)) == (expected, leaves(tree))


@settings(deadline=None)
@given(st.text(alphabet="0123456789+-*/(). ", max_size=60) | st.text(max_size=30))
def test_evaluate_raises_nothing_but_its_own_error(text: str) -> None:
    """Catches an exception of the parser or of Fraction that no caller expects."""
    with suppress(ExpressionError):
        evaluate(text)


# Tags


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think>\n<answer>b</answer>",
        "\n <think>a\n\nb</think>\n<answer>\nc\n</answer>\n\n",
        "<think></think>\n<answer></answer>",
        "<think>a < b > c</think>\n<answer>d</answer>",
    ],
)
def test_layout_is_accepted(text: str) -> None:
    """Catches a check that trips over newlines, angle brackets or white space at the very ends."""
    assert has_think_answer_layout(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3*5+7",
        "<think>a</think><answer>b</answer>",
        "<think>a</think>\n\n<answer>b</answer>",
        "<think>a</think> \n<answer>b</answer>",
        "<think>a</think>\n<answer>b</answer> done",
        "Sure. <think>a</think>\n<answer>b</answer>",
        "<think>a</think>\n<answer>b",
        "a</think>\n<answer>b</answer>",
        "<answer>b</answer>\n<think>a</think>",
        "<think>a</think>\n<answer>b</answer></answer>",
        "<think>a</think>\n<answer>b</answer>\n<answer>c</answer>",
        "<think><think>a</think>\n<answer>b</answer>",
        "<think>a</think>\n<answer></think>\n<answer>b</answer>",
        "<think><answer>b</answer></think>\n<answer>b</answer>",
        "<THINK>a</THINK>\n<answer>b</answer>",
    ],
)
def test_other_layouts_are_refused(text: str) -> None:
    """Catches a search where an exact match is meant: text around it, repeated, swapped, nested or missing tags."""
    assert not has_think_answer_layout(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think>\n<answer> 3+5 </answer>", "3+5"),
        ("<answer>3+5</answer>", "3+5"),
        ("a</think><answer>3+5</answer> trailing", "3+5"),
        ("<think>a</think><answer>1</answer><answer>2</answer>", "2"),
        ("<think>a</think><answer>1<answer>2</answer>", "2"),
        ("<think>a</think><answer>1</answer><answer>2", "1"),
        ("<think>a</think><think>b</think><answer>1</answer>", "1"),
        ("<think><answer>1</answer></think>", None),
        ("<think><answer>1</answer>", None),
        ("<think>a</think><answer>1</answer></think>", None),
        ("<think>a</think><answer></think>1</answer>", None),
        ("<think>a</think><answer>1", None),
        ("<think>a</think>1</answer>", None),
        ("<think>a</think></answer>1<answer>", None),
        ("<think>a</think><answer> \n </answer>", None),
        ("", None),
    ],
)
def test_find_answer(text: str, answer: str | None) -> None:
    """Catches an answer taken from the thinking, the first of two answers, and forged or half-open tags."""
    assert find_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "thinking"),
    [
        ("<think>a</think>\n<answer>b</answer>", "a"),
        ("Sure. <think> a\n</think>b", " a\n"),
        ("<think>a", "a"),
        ("<think>a<think>b</think>c</think>d", "a<think>b</think>c"),
        ("<think></think>a", ""),
        ("a</think>b", ""),
        ("a</think><think>b", "b"),
        ("a", ""),
        ("", ""),
    ],
)
def test_find_thinking(text: str, thinking: str) -> None:
    """Catches thinking that ends at the first of two end tags, or needs one, and text around it that counts."""
    assert find_thinking(text) == thinking


def test_tags_of_a_long_hostile_text_take_linear_time() -> None:
    """Catches a backtracking pattern: on these texts of 4 MB one would run for hours, the test for a moment."""
    for unit in ("<answer>", "</answer>", "<think>", "</think>", "<answer></answer>", "</think>\n<answer>", "<"):
        text = unit * (4_000_000 // len(unit))
        assert not has_think_answer_layout(text)
        find_answer(text)
        find_thinking(text)
