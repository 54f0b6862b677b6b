"""A few ratios for a look at a change, in minutes: shared prompts, the overhead of a step, memory of the demo.

    python -m benchmarks.quick

Small versions of `benchmarks.packing`, `benchmarks.step_time` and `benchmarks.against_baseline`, with which what is
published is measured. Nothing is judged: compare two commits.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import packing, step_time
from benchmarks.against_baseline import run_demo
from benchmarks.machine import ROOT

STEPS = 4
BASELINE = ROOT / "benchmarks/results/against_baseline.json"


def read(path: Path) -> dict[str, Any]:
    """A result file."""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def shown(spread: dict[str, float], factor: float = 1.0) -> str:
    """Median, minimum and maximum."""
    median, low, high = (spread[name] * factor for name in ("median", "min", "max"))
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def main() -> int:
    """Measure, and print one line for each."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "result.json"
        packing.main(["--responses", "32", "--rounds", "3", "--only", "recipe 4", "--output", str(output)])
        for shape, measured in read(output)["mixes"].items():
            for dtype in ("bfloat16", "float32"):
                speedup = shown(measured[dtype]["speedup_both"])
                lines.append(f"{shape}, {dtype}: update and log-probs {speedup} times as fast as with padding")
        step_time.main(["--steps", str(STEPS), "--output", str(output)])
        overhead = shown(read(output)["rest_fraction"], 100)
        lines.append(f"step: overhead over the bare computation {overhead} %")
    stored = read(BASELINE)
    # As many steps as the stored run: responses become longer, and with them the peak.
    demo, steps = run_demo(ROOT, stored["steps"]), stored["steps"]
    peak, before = sum(demo.peak.values()) / 2**20, sum(stored["baseline"]["peak_mib"].values())
    lines.append(f"demo, {steps} steps: {peak:,.0f} MiB at the peak, {peak / before:.2f} of the baseline's {before:,}")
    first = stored["now"]["values"]["first_line_seconds"]["median"]
    lines.append(f"demo: first training line after {demo.first_line:.0f} s; in the stored result {first:.0f} s")
    print("\n".join(["", *lines]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
