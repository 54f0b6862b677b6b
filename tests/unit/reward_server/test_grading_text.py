"""Finding and reading answers without a parser, on hostile text. Every expected value is by hand."""

import time
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_server.components.steps import MAX_STEPS, find_steps, process_correctness
from reward_server.grading import GoldUnparseable
from reward_server.grading.decision import decide
from reward_server.grading.exact import exact_match, read_number
from reward_server.grading.extraction import MAX_TAIL_CHARS, find_boxed, find_tail
from reward_server.grading.limits import DEFAULT_LIMITS, ExpressionLimits, is_expensive, why_too_large
from reward_server.grading.notation import normalize
from reward_server.reading.statement import read
from tests.unit.reward_server.comparisons import is_equal

FLOOD_CHARS = 200_000
BOUND_SECONDS = 5.0
"""Of processor time, for what takes a tenth of a second; a quadratic search of a flood takes minutes."""

pieces = [
    *(r"\boxed{", r"\\boxed{", r"\fbox {", "{", "}", "\\", r"\{", r"\}", " ", "\n", "$", "<think>", "</think>"),
    *("4", "1,000", "12345678901", "-", "+", "=", "/", "*", "×", "(", ")", ".", ",", "、", "。", "½", "²", "٣"),
    *(r"\frac", r"\sqrt", "[3]", r"\text{", r"\left", r"\;", r"\$", "^", "!", "%", "and", "七", "x", "pi", "\x00"),
]
hostile = st.lists(st.sampled_from(pieces), max_size=25).map("".join)
"""Text of what the grader looks for, in any order."""
texts = st.text(max_size=60) | hostile


# Where the answer is


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"So \boxed{4}.", "4"),
        (r"\fbox{4}", "4"),
        (r"\boxed {4}", "4"),
        (r"\\boxed{4}", "4"),
        (r"\boxed{ 4 }", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\}}", r"\}"),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{\text{第七}}", r"\text{第七}"),
        (r"\boxed{\boxed{4}}", r"\boxed{4}"),
        (r"{ \boxed{4}", "4"),
        (r"} \boxed{4} }", "4"),
        (r"\boxed{4} is a guess. It is \boxed{5}", "5"),
        (r"\boxed{4} \boxed{5}", "5"),
        (r"\boxed{4} and then, after a long detour, also or \boxed{5}", "5"),
        (r"\boxed{{4}", None),
        (r"\boxed{4", None),
        (r"\boxed{4} no, \boxed{5", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{4} \boxed{}", None),
        ("boxed{4}", None),
        ("4", None),
        ("", None),
    ],
)
def test_last_box_counts(text: str, content: str | None) -> None:
    """Catches the first of two boxes, braces that are miscounted, and an answer where the last box is open or blank."""
    assert find_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{4}, \boxed{5}", "4, 5"),
        (r"\boxed{4} or \boxed{5}", "4, 5"),
        (r"$\boxed{4}$ and $\boxed{5}$", "4, 5"),
        (r"\boxed{4}\text{ and }\boxed{5}", "4, 5"),
        (r"\boxed{4}，\boxed{5} 和 \boxed{6}", "4, 5, 6"),
        (r"\boxed{1}. No: \boxed{4} or \boxed{5}", "4, 5"),
        (r"\boxed{4}, \boxed{4}", "4"),
        (r"\boxed{4}, \boxed{ 4}", "4"),
        (r"\boxed{}, \boxed{4}", "4"),
        (r"\boxed{4}, \boxed{}", None),
    ],
)
def test_boxes_in_a_row_are_one_answer(text: str, content: str | None) -> None:
    """Catches a policy that is paid for `4 or 5`, an order turned round, and blank boxes that leave commas behind."""
    assert find_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "boxed", "tail"),
    [
        (r"<think>\boxed{4}</think>so 5", None, "so 5"),
        (r"<think>\boxed{4}</think>\boxed{5}", "5", r"\boxed{5}"),
        (r"\boxed{4}</think>", None, None),
        (r"<think>a</think>b</think>\boxed{5}", "5", r"\boxed{5}"),
        (r"<think>\boxed{4}", None, None),
        ("<think>4", None, None),
        (" 4 \n", None, "4"),
        ("", None, None),
    ],
)
def test_thinking_holds_no_answer(text: str, boxed: str | None, tail: str | None) -> None:
    """Catches an answer from the thinking, from thinking that never ends, or a tail that includes it."""
    assert (find_boxed(text), find_tail(text)) == (boxed, tail)


def test_tail_is_the_end() -> None:
    """Catches a tail of another length, or one that is taken from the beginning."""
    assert find_tail("a" + "b" * (MAX_TAIL_CHARS - 1)) == "a" + "b" * (MAX_TAIL_CHARS - 1)
    assert find_tail("a" + "b" * MAX_TAIL_CHARS) == "b" * MAX_TAIL_CHARS


balanced = st.recursive(
    st.text(alphabet="0123x+, 七", max_size=5), lambda inner: st.builds("{}{{{}}}{}".format, inner, inner, inner)
)


@given(st.text(alphabet="ab 4.{}\n", max_size=20).filter(lambda text: "{" not in text), balanced)
def test_content_of_a_box_is_all_of_it(before: str, content: str) -> None:
    """Catches nested braces that end a box too early or too late."""
    assert find_boxed(f"{before}\\boxed{{{content}}} done") == (content.strip() or None)


# One spelling


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        (" $ 5 $. ", "5"),
        (r"\$5", "5"),
        (r"5\$", "5"),
        (r"\(5\)", "5"),
        (r"5\,", "5"),
        (r"\; 5 \;.", "5"),
        ("**73**", "73"),
        ("7。", "7"),
        ("3、4", "3,4"),
        ("１２．５", "12.5"),
        ("\u22123", "-3"),
        ("4\u200b2\u202e", "42"),
        ("1\u00a02", "1 2"),
        ("2π", r"2\pi"),
        ("x≤3", r"x\le 3"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left(1,2\right)", "(1,2)"),
        (r"x\leftarrow 2", r"x\leftarrow 2"),
        (r"\text{yes}", "yes"),
        (r"5\text{ cm}", r"5\text{ cm}"),
        ("sin x", r"\sin x"),
        ("using", "using"),
        (r"\sin x", r"\sin x"),
        ("sqrt(2)", r"\sqrt{2}"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\sqrt[3]2", r"\sqrt[3]{2}"),
        (r"\sqrt [3] 2", r"\sqrt[3]{2}"),
        ("50%", r"50\%"),
        (r"50\%", r"50\%"),
        ("5\\", "5"),
        ("$ $", ""),
        ("", ""),
    ],
)
def test_tidy(text: str, tidied: str) -> None:
    """Catches a spelling that is not unified, one that is changed in meaning, and ends that are taken off too far."""
    assert normalize(text) == tidied


# Decided without a parser


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("4", "4", True),
        ("4.0", "4", True),
        ("+4", "4", True),
        ("$4$.", "4", True),
        ("\uff11\uff12", "12", True),
        ("\u22123", "-3", True),
        ("1,000", "1000", True),
        ("1{,}000", "1000", True),
        ("1/2", "0.5", True),
        (r"\frac12", "1/2", True),
        (r"-\frac{1}{2}", "-0.5", True),
        (r"\frac{-1}{2}", "-1/2", True),
        (r"1\frac{1}{2}", "3/2", True),
        ("-1 1/2", "-1.5", True),
        ("x + 1", "x+1", True),
        ("七", "七", True),
        ("4", "5", False),
        ("1001", "1000", False),
        ("1,000", "1", False),
        ("1/2", "-1/2", False),
        (r"1\frac{1}{2}", "1/2", False),
        ("0.34", "1/3", False),
        ("100.2", "100", False),
        ("", "4", False),
        ("$", "4", False),
        ("0.3333", "1/3", None),
        ("100.1", "100", None),
        ("3.14", r"\pi", None),
        ("1/0", "1", None),
        ("1 2", "12", None),
        ("1,2", "12", None),
        ("x", "y", None),
        ("4", "", None),
        ("", "", None),
        ("$", "$", None),
    ],
)
def test_decide(answer: str, gold: str, same: bool | None) -> None:
    """Catches rounding taken for equality or for a difference, `1 2` as 12, and a blank that equals a blank."""
    assert exact_match(answer, gold) is same


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("007", Fraction(7)),
        ("-3", Fraction(-3)),
        ("1,234,567", Fraction(1_234_567)),
        ("1,000.5", Fraction(2001, 2)),
        (".5", Fraction(1, 2)),
        ("-.5", Fraction(-1, 2)),
        ("5.", Fraction(5)),
        ("-6/4", Fraction(-3, 2)),
        (r"\frac{1}{-2}", Fraction(-1, 2)),
        (r"\frac1{20}", Fraction(1, 20)),
        (r"-2\frac{1}{2}", Fraction(-5, 2)),
        ("9" * 100, Fraction(10**100 - 1)),
        ("9" * 101, None),
        ("1,00", None),
        ("1,0000", None),
        ("12,34", None),
        ("1.2.3", None),
        ("1/0", None),
        (r"\frac{1}{0}", None),
        ("1e5", None),
        ("1_000", None),
        ("0x10", None),
        ("inf", None),
        ("½", None),
        ("²", None),
        (".", None),
        ("-", None),
        ("", None),
    ],
)
def test_read_number(text: str, number: Fraction | None) -> None:
    """Catches commas that group nothing, a sign lost from a mixed number, and spellings that only Python knows."""
    assert read_number(text) == number


def spellings(number: int) -> list[str]:
    """Ways to write an integer."""
    full_width = "".join(chr(ord(char) + 0xFEE0) if char.isdigit() else char for char in str(number))
    return [str(number), f"{number:,}", f"$ {number} $", f"{number}.0", f" {number}.", full_width]


integers = st.integers(-(10**14), 10**14) | st.integers(-20, 20)


@given(integers, st.integers(-3, 3) | integers, st.integers(0, 5), st.integers(0, 5))
def test_integers_are_the_same_only_where_they_are_equal(number: int, offset: int, one: int, other: int) -> None:
    """Catches two different integers taken for the same, in any spelling, and equal ones that are told apart."""
    answer, gold = spellings(number)[one], spellings(number + offset)[other]
    assert exact_match(answer, gold) is True if offset == 0 else exact_match(answer, gold) is not True


@given(texts, st.sampled_from("4x七"))
def test_everything_is_the_same_as_itself(text: str, visible: str) -> None:
    """Catches a label that no answer can match; only a text without any content may stay open."""
    assert exact_match(text, text) in (True, None)
    plain = visible + text.replace("\\", "")
    assert exact_match(plain, plain) is True


# Caps


@pytest.mark.parametrize(
    ("limits", "largest", "too_large"),
    [
        (ExpressionLimits(chars=9), "x" * 9, "x" * 10),
        (ExpressionLimits(digits=9), "1" * 8, "1" * 9),
        (ExpressionLimits(digits=9), "1,000,000", "1,000,000,000"),
        (ExpressionLimits(nesting=2), "((1))", "(((1)))"),
        (ExpressionLimits(tower=1), "x^{y}", "x^{y^z}"),
        (ExpressionLimits(tower=2), "x^{y^z}", "x^{y^{z^w}}"),
        (DEFAULT_LIMITS, "2^{x^2}", "2^{1^2}"),
        (DEFAULT_LIMITS, "2^2 + 2^2", "2^1^2"),
        (ExpressionLimits(exponent_digits=1), "2^{9}", "2^{10}"),
        (ExpressionLimits(exponent_digits=1), "2^{-9}", "2^ {-10}"),
        (ExpressionLimits(factorial_digits=1), "9!", "10!"),
        (ExpressionLimits(factorial_digits=1), "(9)!", "(10)!"),
        (DEFAULT_LIMITS, "3! + 3!", "(2!)!"),
        (DEFAULT_LIMITS, "3!", "2!!"),
        (DEFAULT_LIMITS, "(3!)^2", "2^{2!}"),
        (ExpressionLimits(dollars=3), "$$$", "$$$$"),
    ],
)
def test_limits_are_exact(limits: ExpressionLimits, largest: str, too_large: str) -> None:
    """Catches a limit that is off by one, or missing, so that an answer made to be slow costs a worker its time."""
    assert why_too_large(largest, limits) is None
    assert why_too_large(too_large, limits)


def test_default_limits() -> None:
    """Catches limits that let through what no answer needs: each is a documented number."""
    assert ExpressionLimits() == ExpressionLimits(1500, 120, 25, 3, 6, 4, 100)


@pytest.mark.parametrize(
    ("expression", "heavy"),
    [
        (r"\sum_{k=1}^{n} k", True),
        (r"\int_0^1 x", True),
        (r"\binom{9}{3}", True),
        ("5!", True),
        ("2^{100}", True),
        ("x^{y^z}", True),
        ("x" * 301, True),
        ("x" * 300, False),
        ("2^{99}", False),
        (r"x\!y", False),
        (r"\interval", False),
        (r"\frac{\sqrt{2}}{2}", False),
        ("x^2 + y^2", False),
        ("", False),
    ],
)
def test_what_is_heavy(expression: str, heavy: bool) -> None:
    """Catches cheap expressions that wait behind expensive ones, and expensive ones in everybody's way."""
    assert is_expensive(expression) is heavy


# Steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("4 * 3 = 12", ["4 * 3 = 12"]),
        ("4*3=12, 12+2=14", ["4 * 3 = 12", "12 + 2 = 14"]),
        ("4*3=12 = 12+0=12", ["4 * 3 = 12", "12 + 0 = 12"]),
        ("先算 4×3=12。再算 24÷8=3。", ["4 * 3 = 12", "24 / 8 = 3"]),
        ("Then 4 * 3 = 12. Next", ["4 * 3 = 12"]),
        ("- 4 * 3 = 12", ["4 * 3 = 12"]),
        ("* 4 * 3 = 12", ["4 * 3 = 12"]),
        ("1) 4 * 3 = 12", ["4 * 3 = 12"]),
        ("(4 * 3 = 12)", ["4 * 3 = 12"]),
        ("(4) * (3) = (12)", ["4 * 3 = 12"]),
        ("x = 4 * 3 = 12", ["4 * 3 = 12"]),
        ("-3 + 5 = 2", ["-3 + 5 = 2"]),
        ("3 - -5 = 8", ["3 - -5 = 8"]),
        ("0.5 * 4 = 2", ["1/2 * 4 = 2"]),
        ("8 / 3 = 8/3", ["8 / 3 = 8/3"]),
        ("8 / (8/3) = 3", ["8 / 8/3 = 3"]),
        ("1 / 0 = 3", ["1 / 0 = 3"]),
        ("1/0 + 2 = 3", []),
        ("(4 * 3) + (2 * 6) = 24", []),
        ("2 * (4 * 3) = 24", []),
        ("(4 + 2) * 3 = 18", []),
        ("4 + 2 + 6 = 12", []),
        ("4-2+6=8", []),
        ("4 -2 + 6 = 8", []),
        ("3 + 5 = 8/3.5", []),
        ("1234567890 + 1 = 1", []),
        ("3 + 5 = 1234567890", []),
        ("3 + = 5", []),
        ("3 = 3", []),
        ("", []),
    ],
)
def test_steps(text: str, steps: list[str]) -> None:
    """Catches parts of a longer calculation or number taken for a step of their own, and a full stop that hides one."""
    assert [f"{step.left} {step.sign} {step.right} = {step.result}" for step in find_steps(text)] == steps


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("4 + 3 = 7", True),
        ("4 - 3 = 1", True),
        ("3 - 4 = -1", True),
        ("4 * 3 = 12", True),
        ("8 / 3 = 8/3", True),
        ("1/3 * 3 = 1", True),
        ("0.1 + 0.2 = 0.3", True),
        ("4 + 3 = 8", False),
        ("3 - 4 = 1", False),
        ("4 * 3 = 13", False),
        ("8 / 3 = 2.67", False),
        ("8 / 0 = 0", False),
    ],
)
def test_step_is_exact(text: str, correct: bool) -> None:
    """Catches operators mixed up, floats, rounding, and a division by zero that counts or raises."""
    assert [step.correct for step in find_steps(text)] == [correct]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("4*3=12, 2*6=12, 12+12=24", 1.0),
        ("4*3=12, 12+12=24", 0.5),
        ("4*4=16", 0.0),
        ("4*3=13, 13+2=15", 0.0),
        ("4*3=12, 5+2=7", 0.5),
        ("4+2=6, 6+6=12, 12+3=15: no. 4*3=12, 2*6=12, 12+12=24", 1.0),
        ("12+12=24, 4*3=12, 2*6=12", 2 / 3),
        ("4*3=12, 2*6=12, 12+12=24, 4+3=8", 0.75),
        ("nothing", 0.0),
        ("", 0.0),
    ],
)
def test_process_counts_right_steps_from_numbers_at_hand(text: str, share: float) -> None:
    """Catches numbers from nowhere, a wrong result that is used on, one 12 used as two, and a search that goes back."""
    assert process_correctness(text, [4, 2, 6, 3]) == share


def test_later_steps_of_a_long_trace_do_not_count() -> None:
    """Catches a limit that is missing, or that makes right steps wrong."""
    wrong_after = "1*1=1 " * MAX_STEPS + "1*1=2 " * MAX_STEPS
    assert (len(find_steps(wrong_after)), process_correctness(wrong_after, [1, 1])) == (MAX_STEPS, 1.0)


# Hostile text

FUNCTIONS: list[Callable[[str], object]] = [
    find_boxed,
    find_tail,
    normalize,
    read_number,
    why_too_large,
    is_expensive,
    find_steps,
    lambda text: exact_match(text, "1"),
    lambda text: exact_match("1", text),
    lambda text: process_correctness(text, [1, 2]),
    lambda text: read(text, gold=False),
    lambda text: read(text[:1500], gold=True),
    lambda text: compare("x+1", text[:1500]),
    lambda text: compare(text[:1500], r"\frac{\sqrt{2}}{2}"),
]


def compare(answer: str, gold: str) -> bool | None:
    """What the server's process decides; None also for a gold without an answer."""
    try:
        return is_equal(decide(answer, gold))
    except GoldUnparseable:
        return None


@settings(deadline=None)
@given(texts)
def test_no_text_raises(text: str) -> None:
    """Catches an exception of int, Fraction or a lookup, which would make an error of a wrong answer."""
    for function in FUNCTIONS:
        function(text)


@pytest.mark.parametrize(
    "unit",
    [
        *(r"\boxed{", r"\boxed", r"\boxed ", r"\boxed{1},", r"\boxed{} and ", "{", "}", "\\", r"\ ", r"\;", r"\text{"),
        *("$", "$ ", " ", "\n", "\u3000", ".", "。", ",", "、", "*", "a", r"\sqrt", r"\sqrt[", "^{", "!", "<think>"),
        *(
            r"\frac",
            r"\sin",
            r"\text{\text{",
            "^",
            "^-",
            "_",
            "=",
            r"\pm",
            r"\cup",
            "x",
            "x^",
            "|",
            r"\binom",
            r"\le",
            ":",
        ),
        *("1", "1 ", "1.", "1,", "1/1", "1 / ", "(", "( ", "(1", ")", "1)", "-", "1+", "1+ ", "1+1=", "1+1=1 ", "="),
    ],
)
def test_a_flood_takes_linear_time(unit: str) -> None:
    """Catches a search that goes back over a long text again and again, and copies that grow with the nesting."""
    flood = unit * (FLOOD_CHARS // len(unit))
    for text in (flood, f"x{flood}x", f"\\sqrt{flood}", f"1 + ({flood}", flood + "}" * (FLOOD_CHARS // 7)):
        for function in FUNCTIONS:
            start = time.process_time()
            function(text)
            assert time.process_time() - start < BOUND_SECONDS
