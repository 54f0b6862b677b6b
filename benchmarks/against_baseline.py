"""The demo of this tree against that of an earlier commit: time of a step, first minute, whole run, memory.

    bash benchmarks/baseline.sh    # once: .baseline, with an environment of its own
    python -m benchmarks.against_baseline [--steps 12] [--rounds 3] [--output benchmarks/results/against_baseline.json]

Both run the demo's config as they ship it, in turns, on an otherwise idle machine, and change places from round to
round. A round's ratio is this tree's value over the earlier commit's; all ratios below 1 are gains. The first two steps
do not count as steps: they load libraries and fill caches. With `--steps 70` it is the whole demo.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, spread, write_result
from benchmarks.process_memory import PeakMemory
from openr1.errors import TrainingError

BASELINE = ROOT / ".baseline"
CONFIG = "scripts/configs/grpo_countdown_tiny.yaml"
WARM_UP_STEPS = 2
PHASES = ("step", "generate", "reference", "update", "sync")
SECONDS_PER_LOOK = 0.05
LONGEST_SECONDS = 3600.0
"""Of a run, the whole demo included; one that takes longer is ended, and counts as failed."""


@dataclass(frozen=True)
class Measured:
    """One run of a demo.

    Attributes:
        first_line: Seconds from the command to the first row of metrics.jsonl.
        whole: Seconds of the command.
        phases: Seconds by phase, median over steps.
        peak: Bytes by role when all processes together took most.
        summary: The run's summary.json.
    """

    first_line: float
    whole: float
    phases: dict[str, float]
    peak: dict[str, int]
    summary: dict[str, Any]

    def values(self) -> dict[str, float]:
        """What is compared, by name."""
        seconds = {f"{phase}_seconds": value for phase, value in self.phases.items()}
        return seconds | {
            "first_line_seconds": self.first_line,
            "whole_seconds": self.whole,
            "peak_bytes": float(sum(self.peak.values())),
        }


def run_demo(tree: Path, steps: int) -> Measured:
    """Run the demo of a tree for some steps.

    Raises:
        TrainingError: It failed; the message is the end of its output.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["bash", "scripts/grpo.sh", CONFIG, "--run.name", "demo", "--run.output_dir", name]
        command += ["--num_steps", str(steps)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        metrics, first_line = folder / "demo/metrics.jsonl", 0.0
        with (folder / "log").open("w") as log:
            start = time.monotonic()
            process = subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=subprocess.STDOUT)
            with PeakMemory(process.pid) as memory:
                while process.poll() is None:
                    if time.monotonic() - start > LONGEST_SECONDS:
                        process.terminate()
                        process.wait()
                    if not first_line and metrics.exists() and b"\n" in metrics.read_bytes():
                        first_line = time.monotonic() - start
                    time.sleep(SECONDS_PER_LOOK)
        whole = time.monotonic() - start
        if process.returncode:
            raise TrainingError(f"{tree}: the demo failed: {(folder / 'log').read_text()[-1000:]}")
        rows = [json.loads(line) for line in metrics.read_text().splitlines()][WARM_UP_STEPS:]
        phases = {phase: statistics.median(row[f"time/{phase}_seconds"] for row in rows) for phase in PHASES}
        summary = json.loads((folder / "demo/summary.json").read_text())
        return Measured(first_line, whole, phases, dict(memory.peak), summary)


def compare(rounds: int, steps: int) -> dict[str, Any]:
    """Measure both trees in turns."""
    trees = {"baseline": BASELINE, "now": ROOT}
    runs: dict[str, list[Measured]] = {name: [] for name in trees}
    for index in range(rounds):
        for name in sorted(trees, reverse=index % 2 == 1):
            runs[name].append(run_demo(trees[name], steps))
            print(f"round {index + 1}, {name}: {runs[name][-1].values()}", flush=True)
    return {
        "steps": steps,
        "rounds": rounds,
        "ratios": ratios([one.values() for one in runs["now"]], [one.values() for one in runs["baseline"]]),
        **{name: described(measured) for name, measured in runs.items()},
    }


def ratios(now: Sequence[dict[str, float]], baseline: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum over rounds of now / baseline, for each value."""
    return {
        name: spread([one[name] / other[name] for one, other in zip(now, baseline, strict=True)]) for name in now[0]
    }


def described(runs: Sequence[Measured]) -> dict[str, Any]:
    """The values of one side, and the memory of the round whose peak was largest."""
    largest = max(runs, key=lambda run: sum(run.peak.values()))
    values = [run.values() for run in runs]
    return {
        "values": {name: spread([one[name] for one in values]) for name in values[0]},
        "peak_mib": {name: round(size / 2**20) for name, size in sorted(largest.peak.items())},
        "summary": runs[-1].summary,
    }


def main() -> int:
    """Measure and store the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against_baseline", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/against_baseline.json")
    args = parser.parse_args()
    if not (BASELINE / ".venv/.setup-done").exists():
        parser.exit(3, "there is no baseline yet: run `bash benchmarks/baseline.sh` once\n")
    write_result(args.output, compare(args.rounds, args.steps))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
