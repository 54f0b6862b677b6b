"""Every task but countdown's equation: rewards by hand, from the formulas of the recipes that they are made for."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.schema import ScoreItem
from reward_server.scoring import FinishReason, GradingResult, get_score
from reward_server.tasks import TASKS, find_task
from reward_server.tasks.countdown import COUNTDOWN
from reward_server.tasks.game24 import GAME24
from reward_server.tasks.gsm8k_zh import GSM8K_ZH
from reward_server.tasks.math import MATH, MATH_ANY
from reward_server.tasks.numina import NUMINA
from reward_server.tasks.task import CannotGrade, Comparison


def refuse(comparison: Comparison) -> bool:
    """A comparator to which nothing is equal."""
    return False


class Recorder:
    """A comparator that records what it is asked, and always gives the same answer."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.comparisons: list[Comparison] = []

    def __call__(self, comparison: Comparison) -> bool:
        self.comparisons.append(comparison)
        return self.answer


# All tasks


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(ServerConfig(workers=1)) as one:
        yield one


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_example_is_correct(name: str, grader: Grader) -> None:
    """Catches an example in `/tasks` that the server itself would not pay."""
    task = find_task(name)
    item = ScoreItem(id="a", response=task.example.response, label=task.example.label, prompt=task.example.prompt)
    [(score, _)] = grader.grade(task, [item])
    assert (score.verdict, score.score, score.error) == ("correct", 1.0, None)


def test_weights_are_those_of_the_recipes() -> None:
    """Catches a silent change of a reward; whoever changes it must raise the task's version, too."""
    promised = {
        "math": ("4", "accuracy", {"accuracy": 1.0, "truncated": -1.0}),
        "math_any": ("4", "accuracy", {"accuracy": 1.0, "truncated": -1.0}),
        "countdown": ("2", "equation", {"format": 0.1, "equation": 1.0, "thought": 0.0}),
        "game24": ("2", "outcome", {"outcome": 0.55, "process": 0.30, "length": 0.15}),
        "gsm8k_zh": ("2", "correctness", {"marks": 0.5, "soft": 0.5, "strict": 0.5, "digits": 0.5, "correctness": 2.0}),
        "numina": ("4", "accuracy", {"format": 1.0, "accuracy": 1.0}),
    }
    actual = {
        name: (task.version, task.accuracy, {key: component.weight for key, component in task.components.items()})
        for name, task in TASKS.items()
    }
    assert actual == promised


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *[(name, label) for name in TASKS for label in ("", " \n", "#### ")],
        *[("gsm8k_zh", label) for label in ("$", "$ $", "18 ####", "。")],
        *[
            ("game24", label)
            for label in (
                "24",
                "[4, 2, 6, 3]",
                "4 2 6 3",
                "{}",
                '{"numbers": []}',
                '{"numbers": [4, 2, 6, "3"]}',
                '{"numbers": [4, 2, 6, 3.0]}',
                '{"numbers": [4, 2, 6, -3]}',
                '{"numbers": [4, 2, 6, 3], "target": "24"}',
                '{"numbers": [4, 2, 6, 3], "target": null}',
                '{"nums": [4, 2, 6, 3]}',
                '{"numbers": [4, 2, 6, 3], "solution": "4*3+2*6"}',
            )
        ],
    ],
)
def test_bad_labels_fail_and_never_score_zero(name: str, label: str) -> None:
    """Catches a broken dataset row that looks like a wrong answer."""
    score = get_score(find_task(name), "<think>\n</think>\n<answer>\\boxed{}</answer>", label, compare=refuse)
    assert (score.verdict, score.reward, score.score, score.components) == ("gold_unparseable", None, None, {})
    assert (score.error or "").startswith("gold_unparseable: ")


@pytest.mark.parametrize("name", ["math", "math_any", "numina"])
def test_a_gold_that_the_comparator_cannot_read_fails(name: str) -> None:
    """Catches a failed comparison that becomes a wrong answer."""

    def give_up(comparison: Comparison) -> bool:
        raise CannotGrade("gold_unparseable", f"nothing in {comparison.gold}")

    response = "<think>a</think><answer>\\boxed{x}</answer>"
    score = get_score(find_task(name), response, r"4 \heartsuit", compare=give_up)
    assert score == GradingResult("gold_unparseable", error=r"gold_unparseable: nothing in 4 \heartsuit")


LABELS = {name: task.example.label for name, task in TASKS.items()}
pieces = [
    *("<think>", "</think>", "<answer>", "</answer>", "\n", "\\boxed{", "{", "}", "4", "7", "3*5+7", "4*3=12"),
    *(" = 24", "$", "七", "。", "½", "\\", "²", "1/0", "####", " or ", ","),
]
hostile = st.lists(st.sampled_from(pieces), max_size=20).map("".join)


@settings(deadline=None)
@given(st.text(max_size=50) | hostile, st.sampled_from(sorted(TASKS)), st.sampled_from(["stop", "length", None]))
def test_any_response_gets_a_grading(text: str, name: str, finish_reason: FinishReason | None) -> None:
    """Catches a response that breaks a component, a measure outside [0, 1], and a reward that is not their sum."""
    task = find_task(name)
    score = get_score(task, text, LABELS[name], finish_reason=finish_reason, compare=refuse)
    assert score.verdict in ("correct", "wrong", "no_answer", "truncated")
    assert all(0 <= value <= 1 for value in score.components.values())
    weighted = sum(component.weight * score.components[key] for key, component in task.components.items())
    assert score.reward == pytest.approx(weighted)
    assert (score.verdict == "correct") == (score.score == 1)
    assert score.score == 0 or score.extracted is not None


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_blank_response_earns_nothing(name: str) -> None:
    """Catches a reward for silence, whether the policy stopped or was cut off before it began."""
    for response in ("", " \n", "<think>", "<answer></answer>"):
        score = get_score(find_task(name), response, LABELS[name], finish_reason="stop", compare=refuse)
        assert (score.score, score.components[find_task(name).accuracy]) == (0.0, 0.0)
    assert get_score(find_task(name), "", LABELS[name], finish_reason="stop").reward == 0
    assert get_score(find_task(name), "", LABELS[name], finish_reason="stop").verdict == "no_answer"
    assert get_score(find_task(name), "", LABELS[name], finish_reason="length").verdict == "truncated"


# countdown: thought


@pytest.mark.parametrize(
    ("prefix", "response", "thought"),
    [
        ("", f"<think>{'a' * 1000}</think>\n<answer>7</answer>", 0.0),
        ("", f"<think>{'a' * 1001}</think>\n<answer>7</answer>", 1.0),
        ("", f"<think>{'想' * 1001}</think>", 1.0),
        ("<think>", f"{'a' * 1001}</think>", 1.0),
        ("<think>aaa", f"{'a' * 998}</think>", 1.0),
        ("<think>", "a" * 1001, 1.0),
        ("<think>", "a" * 1000, 0.0),
        ("", "a" * 2000, 0.0),
        ("", "a" * 2000 + "</think>", 0.0),
        ("", f"<think></think>\n<answer>{'a' * 2000}</answer>", 0.0),
        ("", f"{'a' * 2000}<think></think>", 0.0),
    ],
)
def test_thought_is_more_than_a_thousand_characters(prefix: str, response: str, thought: float) -> None:
    """Catches a limit that is off by one, bytes in place of characters, and text outside the thinking that counts."""
    score = get_score(COUNTDOWN, response, LABELS["countdown"], prefix=prefix)
    assert score.components["thought"] == thought


def test_the_three_rewards_of_the_recipe_add_up() -> None:
    """Catches a thought that cannot be switched on: format, equation and thought, each 1, make 3."""
    task = COUNTDOWN.with_overrides({"format": 1.0, "thought": 1.0}, None)
    score = get_score(task, f"<think>{'a' * 1001}</think>\n<answer>3*5+7</answer>", LABELS["countdown"])
    assert (score.reward, COUNTDOWN.components["thought"].weight) == (3.0, 0.0)


# game24

CARDS = '{"numbers": [4, 2, 6, 3]}'


def pad(text: str, length: int) -> str:
    """The text, with blanks before its end tag of the thinking, so that it has this length."""
    return text.replace("</think>", " " * (length - len(text)) + "</think>")


@pytest.mark.parametrize(
    ("response", "parts", "reward"),
    [
        # 0.55 + 0.30 + 0.15
        (pad("<think>4*3=12, 2*6=12, 12+12=24</think><answer>(4*3)+(2*6)</answer>", 200), (1, 1, 1), 1.0),
        # 0.55 + 0.30 / 2 + 0.15 / 2
        (pad("<think>4*3=12, 4*3=13</think><answer>4*3+2*6</answer>", 100), (1, 0.5, 0.5), 0.775),
        # 0.55 + 0.15: no step at all
        (pad("<think></think><answer>4*3+2*6</answer>", 4000), (1, 0, 1), 0.70),
        # 0.55: too long
        (pad("<think></think><answer>4*3+2*6</answer>", 8000), (1, 0, 0), 0.55),
        # 0.30 + 0.15: the steps are right, the answer is 14
        (pad("<think>4*3=12, 12+2=14</think><answer>4*3+2</answer>", 300), (0, 1, 1), 0.45),
        # 0.30 * 2 / 3 + 0.15 / 2
        (pad("<think>4*3=12, 12+2=14, 7*7=49</think><answer>24</answer>", 6000), (0, 2 / 3, 0.5), 0.275),
    ],
)
def test_game24_sums_outcome_process_and_length(
    response: str, parts: tuple[float, float, float], reward: float
) -> None:
    """Catches another weight, a part that depends on another, and length that is not measured on the whole text."""
    score = get_score(GAME24, response, CARDS)
    assert score.components == pytest.approx(dict(zip(("outcome", "process", "length"), parts, strict=True)))
    assert score.reward == pytest.approx(reward)
    assert score.verdict == ("correct" if parts[0] else "wrong")


@pytest.mark.parametrize(
    ("length", "measure"),
    [
        (0, 0.0),
        (50, 0.25),
        (100, 0.5),
        (199, 0.995),
        (200, 1.0),
        (4000, 1.0),
        (5000, 0.75),
        (6000, 0.5),
        (7999, 0.00025),
        (8000, 0.0),
        (50_000, 0.0),
    ],
)
def test_game24_length(length: int, measure: float) -> None:
    """Catches a bend in the wrong place, and a negative reward for what is far too long."""
    for prefix in ("", "<think>"):
        if length >= len(prefix):
            score = get_score(GAME24, "a" * (length - len(prefix)), CARDS, prefix=prefix)
            assert score.components["length"] == measure


@pytest.mark.parametrize(
    ("response", "verdict", "extracted"),
    [
        ("<answer>(4*3)+(2*6)</answer>", "correct", "(4*3)+(2*6)"),
        ("<answer>(4*3)+(2*6) = 24</answer>", "correct", "(4*3)+(2*6)"),
        ("<answer>4×6×(3-2) = 24</answer>", "correct", "4×6×(3-2)"),
        ("<answer>6÷3×(4+2)×2</answer>", "wrong", "6÷3×(4+2)×2"),
        ("<answer>\n4*6*(3-2)\n</answer>", "correct", "4*6*(3-2)"),
        ("<answer>24 = (4*3)+(2*6)</answer>", "wrong", "24"),
        ("<answer>4*6</answer>", "wrong", "4*6"),
        ("<answer>4*6*(3-2)*(3-2)</answer>", "wrong", "4*6*(3-2)*(3-2)"),
        ("<answer>12*2</answer>", "wrong", "12*2"),
        ("<answer>4**2+6+3-1</answer>", "wrong", "4**2+6+3-1"),
        ("<answer>答案是 4*3+2*6</answer>", "wrong", "答案是 4*3+2*6"),
        ("<answer>4*3+2*6</answer><answer>4+3+2+6</answer>", "wrong", "4+3+2+6"),
        ("<answer>4+3+2+6</answer><answer>4*3+2*6</answer>", "correct", "4*3+2*6"),
        ("<answer> = 24</answer>", "no_answer", None),
        ("<answer></answer>", "no_answer", None),
        ("<answer>4*3+2*6</answer><think>4*3=12</think>", "no_answer", None),
        ("<think><answer>4*3+2*6</answer>", "no_answer", None),
        ("(4*3)+(2*6)", "no_answer", None),
    ],
)
def test_game24_outcome(response: str, verdict: str, extracted: str | None) -> None:
    """Catches an answer outside its block, numbers reused or left out, and `= 24` that spoils or makes an answer."""
    score = get_score(GAME24, response, CARDS)
    assert (score.verdict, score.extracted) == (verdict, extracted)
    assert score.components["outcome"] == (verdict == "correct")


def test_game24_knows_other_targets() -> None:
    """Catches 24 where the label says something else, and 8/(3-8/3), which floats miss."""
    ten = '{"numbers": [4, 6], "target": 10}'
    assert get_score(GAME24, "<answer>4+6</answer>", ten).verdict == "correct"
    assert get_score(GAME24, "<answer>4*6</answer>", ten).verdict == "wrong"
    assert get_score(GAME24, "<answer>8/(3-8/3)</answer>", '{"numbers": [3, 3, 8, 8]}').verdict == "correct"


@pytest.mark.parametrize(
    ("prefix", "response", "process"),
    [
        ("<think>", "先算 4×3=12，再算 2×6=12。12+12=24。</think>\n<answer>7</answer>", 1.0),
        ("", "4*3=12, 2*6=13\n<answer>7</answer>", 0.5),
        ("", "<think>4*3=13</think><answer>4*3=12</answer>", 0.0),
        ("", "<think>4*3=12, (4*3)+(2*6)=24</think>", 1.0),
        ("<think>", "4*3=12 and 2*", 1.0),
        ("", "<think>Hm.</think>", 0.0),
    ],
)
def test_game24_process_looks_at_the_thinking(prefix: str, response: str, process: float) -> None:
    """Catches steps outside the thinking that count, Chinese text that hides them, and a trace without tags."""
    assert get_score(GAME24, response, CARDS, prefix=prefix).components["process"] == process


def test_game24_cut_off_while_thinking() -> None:
    """Catches a truncated trace that loses what its steps earned: 0.30 + 0.15 * 20 / 200."""
    score = get_score(GAME24, "<think>4*3=12 so far", CARDS, finish_reason="length")
    assert (score.verdict, score.extracted) == ("truncated", None)
    assert score.reward == pytest.approx(0.315)


# gsm8k_zh

ZH = "<think>\n三加四得七。\n</think>\n<answer>\n7\n</answer>"


@pytest.mark.parametrize(
    ("response", "parts", "reward"),
    [
        # Columns: marks, soft, strict, digits, correctness; 0.5 for each of the first four, 2 for the last.
        (ZH, (1, 1, 1, 1, 1), 4.0),
        (ZH + "\n", (1, 1, 1, 1, 1), 4.0),
        (ZH + "\n\n", (1, 1, 0, 1, 1), 3.5),
        (ZH + "。", (1, 1, 0, 1, 1), 3.5),
        ("好的。\n" + ZH, (1, 1, 0, 1, 1), 3.5),
        (ZH.replace("\n<answer>", "\n\n<answer>"), (1, 1, 0, 1, 1), 3.5),
        ("<think>\n</think>\n<answer>\n7\n</answer>", (1, 1, 0, 1, 1), 3.5),
        ("<think>a</think><answer>7</answer>", (0, 1, 0, 1, 1), 3.0),
        ("<think>\na</think>\n<answer>7\n</answer>", (0.5, 1, 0, 1, 1), 3.25),
        ("<answer>7</answer>", (0, 0, 0, 1, 1), 2.5),
        (ZH.replace("7", "8"), (1, 1, 1, 1, 0), 2.0),
        (ZH.replace("7", "七"), (1, 1, 1, 0, 0), 1.5),
        (ZH.replace("7", ""), (1, 1, 1, 0, 0), 1.5),
        # The block of the answer twice: two marks are there twice, and the last answer counts.
        (ZH + "\n<answer>\n8\n</answer>", (0.5, 1, 0, 1, 0), 1.25),
        (ZH.replace("7", "8") + "\n<answer>\n7\n</answer>", (0.5, 1, 0, 1, 1), 3.25),
        # The answer first: its opening tag has no newline before it, and after the thinking there is no answer.
        ("<answer>\n7\n</answer>\n<think>\na\n</think>\n", (0.75, 0, 0, 0, 0), 0.375),
        ("<think>\n<answer>\n7\n</answer>", (0.75, 0, 0, 0, 0), 0.375),
        ("</answer><answer></think><think>", (0, 0, 0, 0, 0), 0.0),
        ("<think>\n" * 2 + "a\n</think>\n<answer>\n7\n</answer>", (0.75, 1, 0, 1, 1), 3.375),
        ("7", (0, 0, 0, 0, 0), 0.0),
    ],
)
def test_gsm8k_zh_sums_five_rules(response: str, parts: tuple[float, ...], reward: float) -> None:
    """Catches another weight, a mark that counts twice, tags out of order, and an answer outside its place."""
    score = get_score(GSM8K_ZH, response, "7")
    names = ("marks", "soft", "strict", "digits", "correctness")
    assert score.components == dict(zip(names, parts, strict=True))
    assert score.reward == reward


def test_gsm8k_zh_after_a_prompt_that_opens_the_thinking() -> None:
    """Catches rules that look at the response alone, which could never have all four tags."""
    opened = "<think>\n"
    assert get_score(GSM8K_ZH, ZH.removeprefix(opened), "7", prefix=opened).reward == 4.0


@pytest.mark.parametrize(
    ("answer", "label", "digits", "correctness"),
    [
        ("7", "7", 1, 1),
        ("７", "7", 1, 1),
        ("$7$", "7", 1, 1),
        ("7。", "7", 1, 1),
        ("-7", "-7", 1, 1),
        ("\u22127", "-7", 1, 1),
        ("18", "9 * 2 = 18\n#### 18", 1, 1),
        ("1000", "#### 1,000", 1, 1),
        ("1,000", "1000", 0, 1),
        ("7.0", "7", 0, 1),
        ("14/2", "7", 0, 1),
        ("7.5", "7.5", 0, 1),
        ("-7", "7", 1, 0),
        ("77", "7", 1, 0),
        ("3.3333", "3.333", 0, 0),
        ("7元", "7", 0, 1),
        ("7个", "7", 0, 1),
        ("¥7", "7", 1, 1),
        ("7", "7元", 1, 1),
        ("7万", "70000", 0, 1),
        ("7万元", "7", 0, 0),
        ("7千克", "7", 0, 1),
        ("7千", "7000", 0, 1),
        (r"\boxed{7}", "7", 0, 1),
        (r"\boxed{7元}", "7", 0, 1),
        ("7个半", "7", 0, 0),
        ("7折", "7", 0, 0),
        ("7个以上", "7", 0, 0),
        ("7元5角", "7", 0, 0),
        ("7%", "7", 0, 0),
        ("7 或 8", "7", 0, 0),
        ("7 8", "78", 0, 0),
        ("7, 8", "7", 0, 0),
        ("²", "2", 0, 0),
        ("answer", "7", 0, 0),
        ("7" * 101, "7", 0, 0),
    ],
)
def test_gsm8k_zh_answers(answer: str, label: str, digits: int, correctness: int) -> None:
    """Catches a list that holds the answer, rounding, a unit that hides the number, and a word that changes it."""
    components = get_score(GSM8K_ZH, f"<answer>\n{answer}\n</answer>", label).components
    assert (components["digits"], components["correctness"]) == (digits, correctness)


@pytest.mark.parametrize(
    ("response", "finish_reason", "verdict"),
    [
        (ZH, "length", "correct"),
        (ZH.replace("7", "8"), "length", "wrong"),
        ("<think>\n三加四", "length", "truncated"),
        ("<think>\n三加四\n</think>\n<answer>\n7", "length", "truncated"),
        ("<think>\n三加四\n</think>\n<answer>\n7", "stop", "no_answer"),
        (ZH.replace("7", " "), "stop", "no_answer"),
    ],
)
def test_gsm8k_zh_verdicts(response: str, finish_reason: FinishReason, verdict: str) -> None:
    """Catches a cut off response that counts as wrong, and an open answer block that counts as an answer."""
    assert get_score(GSM8K_ZH, response, "7", finish_reason=finish_reason).verdict == verdict


# numina


@pytest.mark.parametrize(
    ("response", "form", "accuracy", "extracted"),
    [
        ("<think>a</think><answer>\\boxed{0.5}</answer>", 1, 1, "0.5"),
        ("<think>\n对半分。\n</think>\n<answer>\n答案是 $\\boxed{\\frac{1}{2}}$。\n</answer>\n", 1, 1, "\\frac{1}{2}"),
        ("Sure. <think>a</think> So: <answer>\\boxed{0.5}</answer> Done.", 1, 1, "0.5"),
        ("<think>a</think><answer>1/2</answer>", 0.5, 1, "1/2"),
        ("<think>a</think><answer>\\boxed{7}</answer>", 1, 0, "7"),
        ("<think>a</think><answer>7</answer>", 0.5, 0, "7"),
        ("<think>\\boxed{0.5}</think><answer>7</answer>", 0.5, 0, "7"),
        ("<think>a</think>\\boxed{0.5}<answer>7</answer>\\boxed{0.5}", 0.5, 0, "7"),
        ("<think>a</think><answer>\\boxed{}</answer>", 0.5, 0, "\\boxed{}"),
        ("<think>a</think><answer> </answer>", 0.5, 0, None),
        ("<think>a</think><answer>\\boxed{0.5}</answer><answer>\\boxed{7}</answer>", 1, 0, "7"),
        ("<think>a</think><answer>\\boxed{7}</answer><answer>\\boxed{0.5}</answer>", 1, 1, "0.5"),
        ("<think>a</think><answer>\\boxed{7} no, \\boxed{0.5}</answer>", 1, 1, "0.5"),
        ("<answer>\\boxed{0.5}</answer>", 0, 1, "0.5"),
        ("a</think><answer>\\boxed{0.5}</answer>", 0, 1, "0.5"),
        ("<think>a</think>\\boxed{0.5}", 0, 0, None),
        ("<think>a</think><answer>\\boxed{0.5}", 0, 0, None),
        ("<think>a<answer>\\boxed{0.5}</answer>", 0, 0, None),
        ("<answer>\\boxed{0.5}</answer><think>a</think>", 0, 0, None),
        ("<think><answer>\\boxed{0.5}</answer></think>", 0, 0, None),
        ("</think><think></answer><answer>", 0, 0, None),
    ],
)
def test_numina_adds_format_and_accuracy(response: str, form: float, accuracy: int, extracted: str | None) -> None:
    """Catches half tags that earn format, a box in the wrong place, and the first of two answers."""
    score = get_score(
        NUMINA, response, "0.5", compare=lambda comparison: comparison.answer in ("0.5", "1/2", "\\frac{1}{2}")
    )
    assert score.components == {"format": form, "accuracy": accuracy}
    assert (score.reward, score.extracted) == (form + accuracy, extracted)


def test_numina_after_a_prompt_that_opens_the_thinking() -> None:
    """Catches a format that looks at the response alone, and a cut off response that counts as wrong."""
    response = "a</think><answer>\\boxed{0.5}</answer>"
    assert get_score(NUMINA, response, "0.5", prefix="<think>").reward == 2.0
    cut_off = get_score(NUMINA, "a</think><answer>\\boxed{0.5", "0.5", prefix="<think>", finish_reason="length")
    assert (cut_off.verdict, cut_off.reward) == ("truncated", 0.0)


@pytest.mark.parametrize("label", ["x^2", "So it is \\boxed{x^2}.", "Because.\n#### x^2"])
def test_numina_asks_the_comparator_about_the_box(label: str) -> None:
    """Catches text around the box that reaches the parser, and a label's solution that does."""
    compare = Recorder(True)
    score = get_score(NUMINA, "<think>a</think><answer>It is \\boxed{x*x}</answer>", label, compare=compare)
    assert (score.reward, score.verdict) == (2.0, "correct")
    assert compare.comparisons == [Comparison("x*x", "x^2")]


# math


@pytest.mark.parametrize(
    ("response", "finish_reason", "verdict", "reward", "extracted"),
    [
        ("So \\boxed{4}.", "stop", "correct", 1.0, "4"),
        ("So \\boxed{4}.", None, "correct", 1.0, "4"),
        ("所以答案是 $\\boxed{4}$。", "stop", "correct", 1.0, "4"),
        ("<think>\\boxed{5}</think>\\boxed{4}", "stop", "correct", 1.0, "4"),
        ("\\boxed{5}, no: \\boxed{4}", "stop", "correct", 1.0, "4"),
        ("So \\boxed{5}.", "stop", "wrong", 0.0, "5"),
        ("\\boxed{4}, no: \\boxed{5}", "stop", "wrong", 0.0, "5"),
        ("<think>\\boxed{4}</think>\\boxed{5}", "stop", "wrong", 0.0, "5"),
        ("<think>\\boxed{4}</think>4", "stop", "no_answer", 0.0, None),
        ("<think>\\boxed{4}", "stop", "no_answer", 0.0, None),
        ("Put the answer within \\boxed{}.", "stop", "no_answer", 0.0, None),
        ("\\boxed{4", "stop", "no_answer", 0.0, None),
        ("It is 4.", "stop", "no_answer", 0.0, None),
        # Cut off: -1, and 1 more where the answer was there already.
        ("So", "length", "truncated", -1.0, None),
        ("So \\boxed{4", "length", "truncated", -1.0, None),
        ("So \\boxed{5}. Or", "length", "wrong", -1.0, "5"),
        ("So \\boxed{4}. Or", "length", "correct", 0.0, "4"),
    ],
)
def test_math(
    response: str, finish_reason: FinishReason | None, verdict: str, reward: float, extracted: str | None
) -> None:
    """Catches a reward for an answer that is not in the last box, and a cut off response that is not penalised."""
    score = get_score(MATH, response, "4", finish_reason=finish_reason)
    assert (score.verdict, score.reward, score.extracted) == (verdict, reward, extracted)
    assert score.components == {"accuracy": verdict == "correct", "truncated": finish_reason == "length"}


@pytest.mark.parametrize("label", ["4", " $4$ ", "2 + 2 = 4, so \\boxed{4}", "2 + 2\n#### 4", "\\boxed{3} \\boxed{4}"])
def test_math_labels(label: str) -> None:
    """Catches a dataset whose answers stand in a solution, and a first box that is taken for the answer."""
    assert get_score(MATH, "\\boxed{4}", label).verdict == "correct"
    assert get_score(MATH, "\\boxed{3}", label).verdict == "wrong"


def test_two_boxes_in_a_row_are_one_question() -> None:
    """Catches a policy that is paid for `4 or 5`."""
    compare = Recorder(False)
    score = get_score(MATH, "\\boxed{4} or \\boxed{5}", "4", compare=compare)
    assert (score.reward, compare.comparisons) == (0.0, [Comparison("4, 5", "4")])


@pytest.mark.parametrize(
    ("response", "comparisons"),
    [
        ("I think it is x*x", [Comparison("I think it is x*x", "x^2", prose=True)]),
        ("<think>y</think> x*x", [Comparison("x*x", "x^2", prose=True)]),
        ("Not y but \\boxed{x*x}", [Comparison("x*x", "x^2")]),
        ("<think>x*x", []),
        ("", []),
    ],
)
def test_math_any_falls_back_to_the_text(response: str, comparisons: list[Comparison]) -> None:
    """Catches a box that is ignored, prose that is read as one expression, and thinking that is taken for an answer."""
    compare = Recorder(True)
    score = get_score(MATH_ANY, response, "x^2", compare=compare)
    assert compare.comparisons == comparisons
    assert score.reward == len(comparisons)
