"""Wall time of sampling one step ahead versus synchronous sampling, in paired rounds on one machine.

    python -m benchmarks.staleness [--steps 8] [--rounds 2] [--output benchmarks/results/staleness.json]

The trainer runs the GRPO config of the experiments, with and without a reference model, at a learning rate that keeps
the weights fixed, so that all variants do the same work on the same prompts. Engine and policy have one thread each,
and so one core each. The duration of a step is the time between writing its rollouts and those of the next step.
Without overlap a step has two parts, waiting for rollouts and updating; with overlap no step can be shorter than the
longer part:

    at most = (wait + update) / max(wait, update)
"""

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.commands import run_command
from benchmarks.machine import ROOT, spread, write_result
from openr1.data.rollout_files import rollout_files
from openr1.tracking.recorder import read_metrics

WARM_UP_STEPS = 2
"""Warm-up steps, which are not measured."""
VARIANTS = {
    "staleness_0": {"rollout.max_staleness": 0, "rollout.threads": 1, "policy.threads": 1},
    "staleness_1": {"rollout.max_staleness": 1, "rollout.threads": 1, "policy.threads": 1},
    "staleness_0_both_cores": {"rollout.max_staleness": 0, "rollout.threads": 2, "policy.threads": 2},
}
WORKLOADS: dict[str, dict[str, object]] = {"with_reference": {}, "without_reference": {"algorithm.init_kl_coef": 0}}


@dataclass(frozen=True)
class StepTimes:
    """Seconds of each measured step of a run, and median seconds of the two parts of a step."""

    steps: list[float]
    wait: float
    update: float


def run_variant(workload: str, variant: str, steps: int, folder: Path) -> StepTimes:
    """Run one variant; warm-up steps and the last step, which saves a checkpoint, are not measured."""
    settings = {
        **VARIANTS[variant],
        **WORKLOADS[workload],
        "run.output_dir": folder,
        "run.name": variant,
        "num_steps": WARM_UP_STEPS + steps + 1,
        "optimizer.learning_rate": 1e-12,
        "checkpoint.save_steps": 0,
    }
    flags = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    run_command(folder / f"{variant}.log", "bash", "scripts/grpo.sh", "experiments/configs/grpo.yaml", *flags)
    written = [path.stat().st_mtime for _, path in rollout_files(folder / variant)]
    rows = read_metrics(folder / variant / "metrics.jsonl")[WARM_UP_STEPS:-1]
    return StepTimes(
        [end - start for start, end in pairwise(written)][WARM_UP_STEPS:],
        statistics.median(row["time/wait_seconds"] for row in rows),
        statistics.median(row["time/update_seconds"] + row["time/sync_seconds"] for row in rows),
    )


def summarize(rounds: list[dict[str, StepTimes]]) -> dict[str, Any]:
    """Return medians, ratios per round and the upper bound of the speed-up for one workload."""
    medians = [{variant: statistics.median(timed.steps) for variant, timed in one.items()} for one in rounds]
    others = [variant for variant in VARIANTS if variant != "staleness_1"]
    parts = [(one["staleness_0"].wait, one["staleness_0"].update) for one in rounds]
    return {
        "median_step_seconds": {
            variant: round(statistics.median(one[variant] for one in medians), 3) for variant in VARIANTS
        },
        "ratios": {
            f"{variant}_over_staleness_1": spread([one[variant] / one["staleness_1"] for one in medians])
            for variant in others
        },
        "at_most": spread([sum(both) / max(both) for both in parts]),
        "step_seconds": [
            {variant: [round(s, 3) for s in timed.steps] for variant, timed in one.items()} for one in rounds
        ],
    }


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.staleness", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/staleness.json")
    args = parser.parse_args()
    rounds: dict[str, list[dict[str, StepTimes]]] = {workload: [] for workload in WORKLOADS}
    for number in range(args.rounds):
        for workload, results in rounds.items():
            with tempfile.TemporaryDirectory() as folder:
                results.append(
                    {
                        variant: run_variant(workload, variant, args.steps, Path(folder) / workload)
                        for variant in VARIANTS
                    }
                )
            shown = ", ".join(
                f"{variant} {statistics.median(timed.steps):.2f} s" for variant, timed in results[-1].items()
            )
            print(f"round {number + 1}, {workload}: {shown}", flush=True)
    write_result(
        args.output,
        {"steps": args.steps, "works": {workload: summarize(results) for workload, results in rounds.items()}},
    )


if __name__ == "__main__":
    main()
