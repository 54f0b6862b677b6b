"""Sampling one step ahead against none, in wall time; paired rounds on one machine.

    python -m benchmarks.staleness [--steps 8] [--rounds 2] [--output benchmarks/results/staleness.json]

The trainer runs the experiments' GRPO config, with its reference and without one, at a learning rate that leaves the
weights as they are: all variants do the same work on the same prompts. With one thread for the engine and one for the
policy, each has a core. A step takes from the writing of one step's rollouts to that of the next. Without overlap it
has two halves, what the policy waits for and its update; with it no step can be shorter than the longer one:

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
from openr1.tracking import read_metrics

WARM_UP = 2
"""Steps that are not counted."""
VARIANTS = {
    "staleness_0": {"rollout.max_staleness": 0, "rollout.threads": 1, "policy.threads": 1},
    "staleness_1": {"rollout.max_staleness": 1, "rollout.threads": 1, "policy.threads": 1},
    "staleness_0_both_cores": {"rollout.max_staleness": 0, "rollout.threads": 2, "policy.threads": 2},
}


WORKS: dict[str, dict[str, object]] = {"with_reference": {}, "without_reference": {"algorithm.init_kl_coef": 0}}


@dataclass(frozen=True)
class Timed:
    """Seconds of the counted steps of a run, and medians of the two halves of one."""

    steps: list[float]
    wait: float
    update: float


def run(work: str, variant: str, steps: int, folder: Path) -> Timed:
    """One run, without its first steps and the last one, which saves."""
    settings = {
        **VARIANTS[variant],
        **WORKS[work],
        "run.output_dir": folder,
        "run.name": variant,
        "num_steps": WARM_UP + steps + 1,
        "optimizer.learning_rate": 1e-12,
        "checkpoint.save_steps": 0,
    }
    flags = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    run_command(folder / f"{variant}.log", "bash", "scripts/grpo.sh", "experiments/configs/grpo.yaml", *flags)
    written = [path.stat().st_mtime for path in sorted((folder / variant / "rollouts").iterdir())]
    rows = read_metrics(folder / variant / "metrics.jsonl")[WARM_UP:-1]
    return Timed(
        [end - start for start, end in pairwise(written)][WARM_UP:],
        statistics.median(row["time/wait_seconds"] for row in rows),
        statistics.median(row["time/update_seconds"] + row["time/sync_seconds"] for row in rows),
    )


def summarize(rounds: list[dict[str, Timed]]) -> dict[str, Any]:
    """Medians, ratios round by round, and the bound, of one work."""
    medians = [{variant: statistics.median(timed.steps) for variant, timed in one.items()} for one in rounds]
    rivals = [variant for variant in VARIANTS if variant != "staleness_1"]
    halves = [(one["staleness_0"].wait, one["staleness_0"].update) for one in rounds]
    return {
        "median_step_seconds": {
            variant: round(statistics.median(one[variant] for one in medians), 3) for variant in VARIANTS
        },
        "ratios": {
            f"{variant}_over_staleness_1": spread([one[variant] / one["staleness_1"] for one in medians])
            for variant in rivals
        },
        "at_most": spread([sum(both) / max(both) for both in halves]),
        "step_seconds": [
            {variant: [round(s, 3) for s in timed.steps] for variant, timed in one.items()} for one in rounds
        ],
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.staleness", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/staleness.json")
    args = parser.parse_args()
    rounds: dict[str, list[dict[str, Timed]]] = {work: [] for work in WORKS}
    for number in range(args.rounds):
        for work, made in rounds.items():
            with tempfile.TemporaryDirectory() as folder:
                made.append({variant: run(work, variant, args.steps, Path(folder) / work) for variant in VARIANTS})
            shown = ", ".join(
                f"{variant} {statistics.median(timed.steps):.2f} s" for variant, timed in made[-1].items()
            )
            print(f"round {number + 1}, {work}: {shown}", flush=True)
    write_result(args.output, {"steps": args.steps, "works": {work: summarize(made) for work, made in rounds.items()}})


if __name__ == "__main__":
    main()
