r"""Answers that cannot be read: they are wrong, and the result says why. Different answers have no such reason."""

from collections.abc import Iterator

import pytest

from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.grading import Unread
from reward_server.grading.decision import decide
from reward_server.schema import ScoreItem
from reward_server.scoring import MAX_REASON_CHARS, GradingResult
from reward_server.tasks import find_task


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(ServerConfig(workers=1)) as one:
        yield one


def grade(grader: Grader, answer: str, gold: str, task: str = "math") -> GradingResult:
    item = ScoreItem(id="0", response=answer, label=gold)
    ((result, _),) = grader.grade(find_task(task), [item])
    return result


@pytest.mark.parametrize(
    ("answer", "gold", "part"),
    [
        (r"4 \heartsuit", "4", r"\heartsuit"),
        (r"4 \heartsuit", r"\sum_{k=1}^{2} k", r"\heartsuit"),
        (r"x+1 \text{ or so much}", "x+1", "or so much"),
        (r"2\text{ at least}", "2", "at least"),
        (r"\sum_{k=1}^{2} k \spadesuit", "3", r"\spadesuit"),
        ("1+" * 800 + "1", "801", "it is too large: 1601 characters"),
        ("9" * 130, "9", "it is too large: a number of 120 digits"),
    ],
)
def test_what_cannot_be_read_is_said(grader: Grader, answer: str, gold: str, part: str) -> None:
    """Catches an answer with a part that no reading accounts for, of which nobody learns why it was wrong."""
    result = grade(grader, rf"\boxed{{{answer}}}", gold)
    assert (result.verdict, result.reward, result.error) == ("wrong", 0.0, None)
    assert result.reason is not None
    assert result.reason.startswith("the answer cannot be read: ")
    assert part in result.reason


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("5", "4"),
        (r"\frac{1}{3}", "x"),
        (r"\text{no}", "4"),
        ("june 21", "june 20"),
        (r"2\text{ or more}", r"\text{even}"),
        (r"\sum_{k=1}^{3} k", "3"),
        (r"\sum_{k=1}^{3} k", r"\text{even}"),
        ("(1,2)", r"\begin{vmatrix} 2 & 1 \\ 1 & 2 \end{vmatrix}"),
    ],
)
def test_a_different_answer_has_no_reason(grader: Grader, answer: str, gold: str) -> None:
    """Catches an ordinary wrong answer, or one that is text like its gold, that is said to be unreadable."""
    result = grade(grader, rf"\boxed{{{answer}}}", gold)
    assert (result.verdict, result.reason) == ("wrong", None)


@pytest.mark.parametrize(("answer", "gold"), [("4", "4"), (r"\sum_{k=1}^{3} k", "6"), (r"4\heartsuit", r"4\heartsuit")])
def test_a_right_answer_has_no_reason(grader: Grader, answer: str, gold: str) -> None:
    """Catches a reason beside the verdict correct."""
    result = grade(grader, rf"\boxed{{{answer}}}", gold)
    assert (result.verdict, result.reason) == ("correct", None)


@pytest.mark.parametrize("answer", ["2\\text{ at\nleast  two}", r"2\text{ at least " + "many " * 200 + "}"])
def test_the_reason_is_one_short_line(grader: Grader, answer: str) -> None:
    """Catches an answer that writes lines into logs, or comes back whole in the reason."""
    reason = grade(grader, rf"\boxed{{{answer}}}", "2").reason or ""
    assert "\n" not in reason
    assert 40 < len(reason) <= MAX_REASON_CHARS


def test_the_other_components_stay(grader: Grader) -> None:
    """Catches an unreadable answer that takes the reward for the format with it."""
    response = r"<think>a</think><answer>\boxed{4 \heartsuit}</answer>"
    result = grade(grader, response, "4", "numina")
    assert (result.reward, dict(result.components)) == (1.0, {"format": 1.0, "accuracy": 0.0})
    assert "heartsuit" in (result.reason or "")


def test_a_text_without_an_expression(grader: Grader) -> None:
    """Catches prose without any answer that counts as read and different."""
    assert "no expression" in (grade(grader, "I am not sure!", "4", "math_any").reason or "")


def test_the_fault_is_that_of_the_side_that_has_it(grader: Grader) -> None:
    """Catches an unreadable answer that makes its gold unreadable, so that it escapes the reward of 0; and a gold that
    nothing reads, for which an answer is called unreadable."""
    assert grade(grader, r"\boxed{4\heartsuit}", r"\sum_{k=1}^{n} k").verdict == "wrong"
    assert grade(grader, r"\boxed{4=}", r"\sum_{k=1}^{n} k").verdict == "wrong"
    assert grade(grader, r"\boxed{4}", r"4\heartsuit").verdict == "gold_unparseable"
    assert grade(grader, r"\boxed{4\clubsuit}", r"4\heartsuit").verdict == "gold_unparseable"


def test_three_values() -> None:
    """Catches a decision that is only yes or no."""
    assert decide("2", "2.0") is True
    assert decide("3", "2") is False
    assert decide(r"3\text{ or more}", "3") == Unread("'or more' behind an expression")
    assert decide(r"\sum_{k=1}^{3} k", "6") is None
