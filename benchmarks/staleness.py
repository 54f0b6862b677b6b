"""Sampling one step ahead against none, in wall time; paired rounds on one machine.

    python -m benchmarks.staleness [--steps 10] [--rounds 3] [--output benchmarks/results/staleness.json]

The trainer runs the experiments' GRPO config without a reference, at a learning rate that leaves the weights as they
are: all arms do the same work on the same prompts. With one thread for the engine and one for the policy, each has a
core. A step takes from the writing of one step's rollouts to that of the next.
"""

import argparse
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

from benchmarks.experiment import run_command
from benchmarks.machine import ROOT, spread, write_result

WARM_UP = 2
"""Steps that are not counted."""
ARMS = {
    "staleness_0": {"rollout.max_staleness": 0, "rollout.threads": 1, "policy.threads": 1},
    "staleness_1": {"rollout.max_staleness": 1, "rollout.threads": 1, "policy.threads": 1},
    "staleness_0_both_cores": {"rollout.max_staleness": 0, "rollout.threads": 2, "policy.threads": 2},
}


def step_seconds(arm: str, steps: int, folder: Path) -> list[float]:
    """Seconds of each step of one run, without the first ones."""
    settings = {
        **ARMS[arm],
        "run.output_dir": folder,
        "run.name": arm,
        "num_steps": WARM_UP + steps + 1,
        "algorithm.init_kl_coef": 0,
        "optimizer.learning_rate": 1e-12,
        "checkpoint.save_steps": 0,
    }
    flags = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    run_command(folder / f"{arm}.log", "bash", "scripts/grpo.sh", "benchmarks/configs/grpo.yaml", *flags)
    written = [path.stat().st_mtime for path in sorted((folder / arm / "rollouts").iterdir())]
    return [end - start for start, end in pairwise(written)][WARM_UP:]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.staleness", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/staleness.json")
    args = parser.parse_args()
    rounds: list[dict[str, list[float]]] = []
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append({arm: step_seconds(arm, args.steps, Path(folder) / str(number)) for arm in ARMS})
        print(f"round {number + 1}: " + ", ".join(f"{arm} {statistics.median(rounds[-1][arm]):.2f} s" for arm in ARMS))
    medians = [{arm: statistics.median(seconds) for arm, seconds in one.items()} for one in rounds]
    rivals = [arm for arm in ARMS if arm != "staleness_1"]
    result = {
        "steps": args.steps,
        "median_step_seconds": {arm: round(statistics.median(one[arm] for one in medians), 3) for arm in ARMS},
        "ratios": {
            f"{arm}_over_staleness_1": spread([one[arm] / one["staleness_1"] for one in medians]) for arm in rivals
        },
        "step_seconds": [{arm: [round(s, 3) for s in seconds] for arm, seconds in one.items()} for one in rounds],
    }
    write_result(args.output, result)


if __name__ == "__main__":
    main()
