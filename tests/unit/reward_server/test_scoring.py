"""Countdown and `get_score`: from a response and a label to a reward. Every expected value is by hand."""

import pytest

from reward_server.components.tags import find_answer
from reward_server.scoring import MAX_EXTRACTED_CHARS, FinishReason, GradingResult, get_score
from reward_server.tasks import UnknownTask, find_task
from reward_server.tasks.countdown import COUNTDOWN, parse_label
from reward_server.tasks.task import Example, GradingContext, LabelError, RewardComponent, Task

LABEL = '{"numbers": [3, 5, 7], "target": 22}'
RIGHT = {"format": 1.0, "equation": 1.0, "thought": 0.0}
"""Components of a right answer after little thought."""


def respond(answer: str) -> str:
    """A well formed response with this answer."""
    return f"<think>so</think>\n<answer>{answer}</answer>"


def grade(response: str, label: str = LABEL) -> GradingResult:
    """Grading of a whole countdown response, without prefix."""
    return get_score(COUNTDOWN, response, label)


# Countdown


@pytest.mark.parametrize("answer", ["3*5+7", "7 + 5 * 3", "(7) + (5*3)", "\n3*5+7\n", "7--3*5"])
def test_right_answers(answer: str) -> None:
    """Catches a check of the numbers' order, of white space, or of the shape of the expression."""
    assert grade(respond(answer)) == GradingResult("correct", 1.1, 1.0, RIGHT, answer.strip())


@pytest.mark.parametrize(
    "answer",
    [
        "3+5+7",
        "22",
        "3*5+7+3-3",
        "3*5+8-1",
        "(3*7)+1",
        "35-13",
        "3*5+7 = 22",
        "3.0*5+7",
        "3.*5+7",
        "03*5+7",
        "3*5+7.0",
        "3*5+7*(1)",
        "3/0+5+7",
        "3**5-7",
        "__import__('os')",
        "22 because",
        "\u0663*5+7",
        "3*5+7;",
    ],
)
def test_wrong_answers(answer: str) -> None:
    """Catches a number that is reused, missing, foreign, concatenated or rewritten, and text beside the expression."""
    score = grade(respond(answer))
    assert (score.verdict, score.reward, score.score) == ("wrong", 0.1, 0.0)
    assert score.components == RIGHT | {"equation": 0.0}


@pytest.mark.parametrize(
    ("label", "answer", "verdict"),
    [
        ('{"numbers": [3, 5], "target": 35}', "35", "wrong"),
        ('{"numbers": [2, 2, 3], "target": 7}', "2+2+3", "correct"),
        ('{"numbers": [2, 2, 3], "target": 5}', "2+3", "wrong"),
        ('{"numbers": [2, 3], "target": 7}', "2+2+3", "wrong"),
        ('{"numbers": [0, 4], "target": 4}', "00+4", "wrong"),
        ('{"numbers": [0, 4], "target": 4}', "0+4", "correct"),
        ('{"numbers": [3, 5], "target": -2}', "3-5", "correct"),
        ('{"numbers": [8, 3, 3], "target": 24}', "8*(3*3/3)", "wrong"),
        ('{"numbers": [8, 8, 3, 3], "target": 24}', "8/(3-8/3)", "correct"),
    ],
)
def test_numbers_are_a_multiset_of_literals(label: str, answer: str, verdict: str) -> None:
    """Catches a set in place of a multiset, 35 made of 3 and 5, and 8/(3-8/3), which floats miss by 7e-15."""
    assert grade(respond(answer), label).verdict == verdict


@pytest.mark.parametrize(("divisor", "verdict"), [(100_000, "correct"), (99_999, "wrong")])
def test_tolerance_is_one_in_a_hundred_thousand(divisor: int, verdict: str) -> None:
    """Catches another tolerance: 7 + 1/100000 is off by exactly 1e-5, 7 + 1/99999 by slightly more."""
    label = f'{{"numbers": [1, 7, {divisor}], "target": 7}}'
    assert grade(respond(f"7+1/{divisor}"), label).verdict == verdict


def test_format_and_equation_are_independent() -> None:
    """Catches an equation that is only graded in the right format; 3 * 5 + 7 = 22 without thinking earns 1.0."""
    score = grade("<answer>3*5+7</answer> I think")
    assert (score.verdict, score.reward, score.components) == ("correct", 1.0, RIGHT | {"format": 0.0})


def test_prefix_is_the_beginning_of_the_response() -> None:
    """Catches a format check on the response alone, which could never succeed after a prompt that opens <think>."""
    score = get_score(COUNTDOWN, "3*5</think>\n<answer>3*5+7</answer>", LABEL, prefix="<think>")
    assert score.reward == 1.1


def test_answer_in_the_thinking_does_not_count() -> None:
    """Catches a search for answers that does not stop at the thinking, with or without a prefix."""
    inside = get_score(COUNTDOWN, "maybe <answer>3*5+7</answer>", LABEL, prefix="<think>")
    assert (inside.verdict, inside.reward, inside.extracted) == ("no_answer", 0.0, None)


def test_last_answer_counts() -> None:
    """Catches a policy that is paid for listing several answers of which one is right."""
    score = grade("<think></think>\n<answer>3*5+7</answer>\n<answer>3+5+7</answer>")
    assert (score.verdict, score.reward, score.extracted) == ("wrong", 0.0, "3+5+7")


@pytest.mark.parametrize(
    ("response", "finish_reason", "verdict", "reward"),
    [
        ("<think>3", "length", "truncated", 0.0),
        ("<think>3</think>\n<answer>3*5", "length", "truncated", 0.0),
        ("<think>3", "stop", "no_answer", 0.0),
        ("", "stop", "no_answer", 0.0),
        ("", None, "no_answer", 0.0),
        (respond(""), "stop", "no_answer", 0.1),
        (respond("3*5+7"), "length", "correct", 1.1),
        (respond("3+5+7"), "length", "wrong", 0.1),
    ],
)
def test_truncated_is_told_from_no_answer(
    response: str, finish_reason: FinishReason | None, verdict: str, reward: float
) -> None:
    """Catches a cut off response that counts as failed, or as truncated although its answer was complete."""
    score = get_score(COUNTDOWN, response, LABEL, finish_reason=finish_reason)
    assert (score.verdict, score.reward, score.error) == (verdict, reward, None)


@pytest.mark.parametrize(
    "label",
    [
        "",
        "22",
        "[3, 5, 7]",
        "{'numbers': [3], 'target': 3}",
        '{"numbers": [3, 5, 7]}',
        '{"target": 22}',
        '{"numbers": [], "target": 0}',
        '{"numbers": 3, "target": 3}',
        '{"numbers": ["3"], "target": 3}',
        '{"numbers": [3.0], "target": 3}',
        '{"numbers": [true], "target": 1}',
        '{"numbers": [-3], "target": 3}',
        '{"numbers": [3], "target": "3"}',
        '{"numbers": [3], "target": NaN}',
        '{"numbers": [3], "target": 3, "nums": [3]}',
        '{"numbers": [3], "target": ' + "9" * 5000 + "}",
        "[" * 100_000,
    ],
)
def test_bad_labels_fail_and_never_score_zero(label: str) -> None:
    """Catches a broken dataset row that looks like a wrong answer, and labels that are guessed at."""
    score = grade(respond("3"), label)
    assert (score.verdict, score.reward, score.score, score.components) == ("gold_unparseable", None, None, {})
    assert score.error is not None
    assert score.error.startswith("gold_unparseable: ")
    assert "\n" not in score.error


def test_label_error_names_the_key() -> None:
    """Catches an error that does not say what is wrong with the label."""
    with pytest.raises(LabelError, match="target: Field required"):
        parse_label('{"numbers": [3]}')


# get_score


def test_unknown_task_lists_the_known_ones() -> None:
    """Catches a typo in a dataset's task that is graded by some default."""
    with pytest.raises(UnknownTask, match=r"'countdwn'; known tasks: countdown, \w+.*, numina$"):
        find_task("countdwn")


def test_a_crash_of_the_grader_fails_the_item() -> None:
    """Catches an exception in one component that becomes a 0 or the end of the batch."""

    def crash(context: GradingContext[str]) -> float:
        raise RecursionError(context.text)

    components = {"equation": RewardComponent(1.0, crash)}
    broken = Task("broken", "1", "fails", str, find_answer, components, "equation", Example("", ""))
    assert get_score(broken, "deep", "") == GradingResult("error", error="grader_error: RecursionError: deep")


def test_components_see_prompt_and_meta() -> None:
    """Catches arguments of get_score that get lost on the way, and a reward that ignores the weights."""
    seen: list[GradingContext[str]] = []

    def remember(context: GradingContext[str]) -> float:
        seen.append(context)
        return 0.5

    components = {"first": RewardComponent(3.0, remember), "second": RewardComponent(-1.0, remember)}
    spy = Task("spy", "1", "looks on", str.upper, find_answer, components, "second", Example("", ""))
    score = get_score(
        spy, "b<answer>c</answer>", "gold", prompt="why?", prefix="a", meta={"level": 3}, finish_reason="length"
    )
    known = GradingContext("ab<answer>c</answer>", "c", "GOLD", "why?", {"level": 3}, True, seen[0].compare)
    assert seen == 2 * [known]
    assert (score.reward, score.score) == (1.0, 0.5)


def test_a_huge_answer_is_shortened_only_for_display() -> None:
    """Catches an answer of megabytes that is sent back, and one that is shortened before it is graded."""
    score = grade(respond("3*5+7" + " " * 5000 + "+"))
    assert (score.verdict, len(score.extracted or "")) == ("wrong", MAX_EXTRACTED_CHARS)


def test_countdown_weights_are_those_that_the_page_promises() -> None:
    """Catches a silent change of the reward; whoever changes it must raise the version, too."""
    weights = {name: component.weight for name, component in COUNTDOWN.components.items()}
    promised = {"format": 0.1, "equation": 1.0, "thought": 0.0}
    assert (weights, COUNTDOWN.accuracy, COUNTDOWN.version) == (promised, "equation", "2")
