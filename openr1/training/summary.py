"""summary.json, and the table printed at the end of a run."""

from typing import Any

from openr1.tracking.eval_results import EvalResult

TABLE_HEADER = ("", "before", "after")


def table_rows(before: dict[str, EvalResult], after: dict[str, EvalResult]) -> list[list[str]]:
    """Rows of the table that compares the evaluations before and after training."""

    def accuracy(result: EvalResult) -> str:
        low, high = result.ci95
        return f"{result.accuracy:.3f} [{low:.3f}, {high:.3f}]"

    sampled = (before["sampled"], after["sampled"])
    rows = [
        [f"accuracy, temperature {sampled[0].temperature:g} (95 % interval)", *map(accuracy, sampled)],
        ["accuracy, greedy (95 % interval)", accuracy(before["greedy"]), accuracy(after["greedy"])],
        [f"pass@{sampled[0].n_samples_per_prompt}", *(f"{result.pass_at_k:.3f}" for result in sampled)],
        ["mean response length, tokens", *(f"{result.response_length:.1f}" for result in sampled)],
        ["truncated", *(f"{result.truncated_fraction:.1%}" for result in sampled)],
    ]
    if any(result.num_failed for result in sampled):
        rows.append(["could not be graded, counted as wrong", *(str(result.num_failed) for result in sampled)])
    if "base" in before:
        base = before["base"]
        rows.append([f"pass@{base.n_samples_per_prompt} of the base", f"{base.pass_at_k:.3f}", ""])
    return rows


def summarize(
    metrics: list[dict[str, float]], before: dict[str, EvalResult], after: dict[str, EvalResult]
) -> dict[str, Any]:
    """Compute the numbers of summary.json except the wall time. Accuracies are omitted if nothing was evaluated."""
    step_seconds = sum(row["time/step_seconds"] for row in metrics)
    tokens = sum(row["throughput/tokens_per_second"] * row["time/step_seconds"] for row in metrics)
    # Only on-policy steps: log-probs sampled under stale weights legitimately differ. The first step is on-policy.
    fresh = [row for row in metrics if row["rollout/staleness_max"] == 0]
    summary: dict[str, Any] = {
        "steps": int(metrics[-1]["step"]),
        "weight_version": int(metrics[-1]["sync/version"]),
        "tokens_per_second": tokens / step_seconds,
        "mismatch_kl_max": max(row["rollout/mismatch_kl"] for row in fresh),
        "mismatch_abs_mean_max": max(row["rollout/mismatch_abs_mean"] for row in fresh),
    }
    for name, results in (("before", before), ("after", after)):
        if results:
            sampled = results["sampled"]
            summary |= {
                f"accuracy_{name}": sampled.accuracy,
                f"ci95_{name}": list(sampled.ci95),
                f"pass_at_{sampled.n_samples_per_prompt}_{name}": sampled.pass_at_k,
                f"response_length_{name}": sampled.response_length,
                f"greedy_{name}": results["greedy"].accuracy,
                "eval_size": sampled.num_prompts,
            }
    if "base" in before:
        summary[f"base_pass_at_{before['base'].n_samples_per_prompt}"] = before["base"].pass_at_k
    return summary
