"""summary.json and the table at the end of a run, by hand."""

from dataclasses import replace

import pytest

from openr1.tracking.eval_results import EvalResult
from openr1.training.summary import summarize, table_rows

SAMPLED = EvalResult(
    accuracy=0.25,
    ci95=(0.2, 0.3),
    pass_at_k=0.5,
    num_prompts=40,
    n_samples_per_prompt=4,
    temperature=1.0,
    response_length=30.0,
    truncated_fraction=0.0,
)
GREEDY = replace(SAMPLED, accuracy=0.375, pass_at_k=0.375, n_samples_per_prompt=1, temperature=0.0)
BEFORE = {"sampled": SAMPLED, "greedy": GREEDY}
AFTER = {
    "sampled": replace(SAMPLED, accuracy=0.75, ci95=(0.7, 0.8), pass_at_k=0.875, response_length=60.0),
    "greedy": replace(GREEDY, accuracy=0.5),
}


def row(step: int, seconds: float, speed: float, staleness: float, mismatch: float) -> dict[str, float]:
    """A step's metrics, as far as the summary reads them."""
    return {
        "step": step,
        "sync/version": step,
        "time/step_seconds": seconds,
        "throughput/tokens_per_second": speed,
        "rollout/staleness_max": staleness,
        "rollout/mismatch_kl": mismatch,
        "rollout/mismatch_abs_mean": 2 * mismatch,
    }


def test_numbers_of_a_run() -> None:
    """Catches a mean of speeds instead of all tokens by all seconds, a mismatch of stale weights, and before for after.

    100 tokens per second for 1 s and 20 for 3 s are 160 tokens in 4 s.
    """
    metrics = [row(1, 1.0, 100.0, 0, 0.125), row(2, 3.0, 20.0, 1, 0.5)]
    assert summarize(metrics, BEFORE, AFTER) == {
        "steps": 2,
        "weight_version": 2,
        "tokens_per_second": 40.0,
        "mismatch_kl_max": 0.125,
        "mismatch_abs_mean_max": 0.25,
        "eval_size": 40,
        "accuracy_before": 0.25,
        "accuracy_after": 0.75,
        "ci95_before": [0.2, 0.3],
        "ci95_after": [0.7, 0.8],
        "pass_at_4_before": 0.5,
        "pass_at_4_after": 0.875,
        "response_length_before": 30.0,
        "response_length_after": 60.0,
        "greedy_before": 0.375,
        "greedy_after": 0.5,
    }


def test_without_evaluations_there_are_no_accuracies() -> None:
    """Catches zeros, or an error, where nothing was held out."""
    found = summarize([row(1, 1.0, 100.0, 0, 0.125)], {}, {})
    assert not [name for name in found if "accuracy" in name or "pass" in name]


@pytest.mark.parametrize("base_pass_at", [None, 16])
def test_table(base_pass_at: int | None) -> None:
    """Catches pass@k of one side under the other, and the base's own pass@k that passes for one of both sides."""
    before = dict(BEFORE)
    if base_pass_at is not None:
        before["base"] = replace(SAMPLED, n_samples_per_prompt=base_pass_at, pass_at_k=0.8125)
    expected = [
        ["accuracy, temperature 1 (95 % interval)", "0.250 [0.200, 0.300]", "0.750 [0.700, 0.800]"],
        ["accuracy, greedy (95 % interval)", "0.375 [0.200, 0.300]", "0.500 [0.200, 0.300]"],
        ["pass@4", "0.500", "0.875"],
        ["mean response length, tokens", "30.0", "60.0"],
        ["truncated", "0.0%", "0.0%"],
    ]
    if base_pass_at is not None:
        expected.append(["pass@16 of the base", "0.812", ""])
    assert table_rows(before, AFTER) == expected
