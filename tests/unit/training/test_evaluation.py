"""pass@k, its interval and a whole evaluation, against counting by hand."""

import json
import math
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest

from openr1.algorithms.pass_at_k import mean_with_interval, pass_at_k
from openr1.errors import RewardServerUnavailable, TrainingError
from openr1.tracking.eval_results import EvalResult, read_eval_results, write_eval_results
from openr1.training.evaluation import evaluate
from openr1.types import Grade, Group, Prompt, SamplingParams
from tests.fakes import FakeRewards, FakeRollout, graded, make_prompt, make_response

SAMPLING = SamplingParams(
    n_samples_per_prompt=2, generate_max_len=8, temperature=0.5, top_p=1.0, seed=0, seed_stream="eval/test"
)


# pass@k


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5, 6])
def test_pass_at_k_equals_counting(num_samples: int) -> None:
    """Catches 1 - (1 - c/n) ** k, which draws with replacement, and a k that is off by one."""
    for num_correct in range(num_samples + 1):
        for k in range(1, num_samples + 1):
            draws = list(combinations(range(num_samples), k))
            # Samples 0 to num_correct - 1 are the correct ones.
            passed = sum(min(draw) < num_correct for draw in draws)
            assert pass_at_k(num_correct, num_samples, k) == pytest.approx(float(Fraction(passed, len(draws))))


@pytest.mark.parametrize("k", [0, -1, 5])
def test_pass_at_k_refuses_what_cannot_be_drawn(k: int) -> None:
    """Catches pass@8 of 4 samples, for which the formula gives 1."""
    with pytest.raises(ValueError, match=f"k is {k}"):
        pass_at_k(num_correct=1, num_samples=4, k=k)


# Interval


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_interval_of_equal_values_has_no_width(value: float) -> None:
    """Catches the NaN or the warning of a bootstrap over values without spread."""
    mean, (low, high) = mean_with_interval([value] * 7)
    assert mean == low == high == pytest.approx(value)
    assert mean_with_interval([value]) == (value, (value, value))


@pytest.mark.parametrize(("right", "total"), [(120, 400), (200, 400), (30, 300)])
def test_interval_agrees_with_the_normal_one(right: int, total: int) -> None:
    """Catches an interval of another level, of the values instead of the mean, or of a standard error."""
    mean, (low, high) = mean_with_interval([1.0] * right + [0.0] * (total - right))
    p = right / total
    half = 1.96 * math.sqrt(p * (1 - p) / total)
    assert mean == pytest.approx(p)
    # 2000 resamples leave an error of some percent of the width at each end.
    assert low == pytest.approx(p - half, abs=0.15 * half)
    assert high == pytest.approx(p + half, abs=0.15 * half)


def test_interval_is_repeatable() -> None:
    """Catches a summary that differs each time that it is computed from the same answers."""
    values = [number**0.5 for number in range(30)]
    assert mean_with_interval(values) == mean_with_interval(values)
    assert mean_with_interval(values) != mean_with_interval(values, seed=1)


# An evaluation


def make_answers(prompt: Prompt) -> Group:
    """Responses of 3 tokens and of 1, the second cut off where the prompt's number is odd."""
    odd = prompt.token_ids[0] % 2 == 1
    return Group(prompt, (make_response(1, 2, 3), make_response(4, truncated=odd)))


def test_evaluation_by_hand() -> None:
    """Catches a mean over responses of another set, pass@k of the first sample, and progress that is not reported."""
    prompts = [make_prompt(number) for number in range(4)]
    rewards = FakeRewards(graded({"p0": [1.0, 1.0], "p1": [1.0, 0.0], "p2": [0.0, 1.0], "p3": [0.0, 0.0]}))
    rollout = FakeRollout(make=make_answers, order=lambda prompts: prompts[::-1])
    ticks: list[int] = []
    result = evaluate(prompts, rollout, rewards, SAMPLING, on_group=lambda: ticks.append(1))
    # Shares 1, 1/2, 1/2, 0: mean 1/2. At least one of two right: 3 of 4 prompts. Truncated: p1 and p3, of 8 responses.
    assert (result.accuracy, result.pass_at_k) == (0.5, 0.75)
    assert (result.response_length, result.truncated_fraction) == (2.0, 0.25)
    assert (result.num_prompts, result.n_samples_per_prompt, result.temperature) == (4, 2, 0.5)
    assert result.num_failed == 0
    assert 0 <= result.ci95[0] < 0.5 < result.ci95[1] <= 1
    assert ticks == [1] * 4
    assert rollout.requests == [(["p0", "p1", "p2", "p3"], SAMPLING)]


def test_finishing_order_does_not_change_the_interval() -> None:
    """Catches a bootstrap over values in the order in which engines happened to finish."""
    prompts = [make_prompt(number) for number in range(6)]
    rewards = graded({f"p{number}": [number**0.5 / 3] * 2 for number in range(6)})
    results = [
        evaluate(prompts, FakeRollout(order=order), FakeRewards(rewards), SAMPLING)
        for order in (list, lambda prompts: prompts[::-1])
    ]
    assert results[0] == results[1]


def test_accuracy_is_not_the_reward() -> None:
    """Catches a format bonus that counts as accuracy, and a partly right answer that counts as passed."""
    score = Grade(0.9, 0.5, {"format": 1.0, "steps": 0.5}, "wrong")
    result = evaluate([make_prompt()], FakeRollout(), FakeRewards(lambda group: [score, score]), SAMPLING)
    assert (result.accuracy, result.pass_at_k) == (0.5, 0.0)


@pytest.mark.parametrize("allowed", [0.0, 0.24])
def test_too_many_ungraded_responses_stop_the_evaluation(allowed: float) -> None:
    """Catches failures that silently count as wrong, and a message without the numbers that were compared."""
    rewards = FakeRewards(graded({"p1": [1.0, None]}))
    with pytest.raises(TrainingError) as caught:
        evaluate([make_prompt(0), make_prompt(1)], FakeRollout(), rewards, SAMPLING, allowed)
    for part in ("25.0%", f"reward.max_failed_fraction {allowed:g}", "the first error: p1/1: grader_error: it broke"):
        assert part in str(caught.value)


def test_allowed_ungraded_responses_count_as_not_right() -> None:
    """Catches an accuracy over what is left, which rises where grading fails, and a limit that is not included."""
    rewards = FakeRewards(graded({"p0": [1.0, None], "p1": [None, None], "p2": [1.0, 1.0], "p3": [0.0, 1.0]}))
    prompts = [make_prompt(number) for number in range(4)]
    result = evaluate(prompts, FakeRollout(), rewards, SAMPLING, 3 / 8)
    # Shares of right ones: 1/2, 0, 1, 1/2, of mean 1/2. All but p1 have a right one.
    assert (result.accuracy, result.pass_at_k, result.num_failed) == (0.5, 0.75, 3)


def refuse(group: Group) -> list[Grade]:
    """A reward server that is gone."""
    raise RewardServerUnavailable("gone")


def test_missing_server_stops_the_measurement() -> None:
    """Catches an accuracy over nothing."""
    with pytest.raises(RewardServerUnavailable, match="gone"):
        evaluate([make_prompt()], FakeRollout(), FakeRewards(refuse), SAMPLING)


def test_written_results_read_back(tmp_path: Path) -> None:
    """Catches an interval that comes back as a list, and a half-written file under the final name."""
    results = {
        "sampled": EvalResult(0.5, (0.25, 0.75), 0.75, 4, 2, 1.0, 2.5, 0.1),
        "greedy": EvalResult(0.1, (0.1, 0.1), 0.1, 4, 1, 0.0, 3.0, 0.0),
    }
    path = tmp_path / "eval/step_000000.json"
    write_eval_results(path, results)
    assert read_eval_results(path) == results
    assert [file.name for file in path.parent.iterdir()] == ["step_000000.json"]


def test_results_of_older_runs_are_read(tmp_path: Path) -> None:
    """Catches a run that cannot be resumed because its files say nothing of responses that could not be graded."""
    path = tmp_path / "step_000000.json"
    write_eval_results(path, {"sampled": EvalResult(0.5, (0.25, 0.75), 0.75, 4, 2, 1.0, 2.5, 0.1)})
    rows = json.loads(path.read_text())
    del rows["sampled"]["num_failed"]
    path.write_text(json.dumps(rows))
    assert read_eval_results(path)["sampled"].num_failed == 0
