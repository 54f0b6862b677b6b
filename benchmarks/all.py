"""All measurements of speed and memory, one after the other, and the table of docs/performance.md from their results.

    python -m benchmarks.all [--page]

With `--page` nothing is measured: the table is written from the results that are kept.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.markdown import fill_table
from openr1.files import write_whole

RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/performance.md"
HEADER = ["what", "command", "result", "machine, commit", "file"]


def step_time(result: dict[str, Any]) -> str:
    """Shares of a step's wall time."""
    names = {
        "sync_fraction": "sync",
        "outside_phases_fraction": "outside all phases",
        "rest_fraction": "beyond raw work",
    }
    shares = ", ".join(f"{title} {_range(result[name], 100, 1)} %" for name, title in names.items())
    return f"{shares} of a step of {_range(result['step_seconds'], 1, 2)} s; median of {result['steps']} steps"


def against_trl(result: dict[str, Any]) -> str:
    """Speed-up and seconds of phases, for each mix of lengths."""
    parts = []
    for mix, one in result["mixes"].items():
        ours, theirs = one["openr1"]["seconds"], one["trl"]["seconds"]
        phases = ("generate", "reward", "reference", "update")
        seconds = ", ".join(f"{p} {ours[p]['median']:.2f} / {theirs[p]['median']:.2f}" for p in phases)
        parts.append(
            f"{mix} lengths: **{_range(one['speedup'], 1, 2)}** times the samples a second "
            f"({ours['step']['median']:.2f} s / {theirs['step']['median']:.2f} s a step; {seconds} s; "
            f"TRL {result['trl']} at its best: {one['trl_best']})"
        )
    return "<br>".join(parts)


def staleness(result: dict[str, Any]) -> str:
    """Speed-ups of one step ahead, with a reference and without."""
    parts = []
    for work, one in result["works"].items():
        seconds, ratios = one["median_step_seconds"], one["ratios"]
        alone, both = (ratios[f"{variant}_over_staleness_1"] for variant in ("staleness_0", "staleness_0_both_cores"))
        parts.append(
            f"{work.replace('_', ' ')}: a step of {seconds['staleness_1']:.2f} s, **{_range(alone, 1, 2)}** times as "
            f"fast as without ({seconds['staleness_0']:.2f} s; at most {_range(one['at_most'], 1, 2)}), "
            f"{_range(both, 1, 2)} times as without and with both cores for each "
            f"({seconds['staleness_0_both_cores']:.2f} s)"
        )
    return "<br>".join([*parts, "engine and policy have a core each"])


def packing(result: dict[str, Any]) -> str:
    """Speed-up of an update, for each mix of lengths and type."""
    parts = [
        f"{mix} lengths, {dtype}: {_range(one[dtype]['speedup'], 1, 2)} times as fast, "
        f"{one[dtype]['padding_fraction']:.0%} padding saved, gradients within {one[dtype]['gradient_difference']:.0e}"
        for mix, one in result["mixes"].items()
        for dtype in ("bfloat16", "float32")
    ]
    return "<br>".join(parts)


def log_prob_memory(result: dict[str, Any]) -> str:
    """Memory of both ways."""
    return (
        f"{result['tokens']:,} tokens of a vocabulary of {result['vocabulary']:,}: "
        f"{result['chunked']['gib']:.1f} GiB, against {result['naive']['gib']:.1f} GiB for all logits at once"
    )


def reward_server(result: dict[str, Any]) -> str:
    """Throughput without bombs, and what refused bombs do to the others."""
    rates = [result["numeric"][kind]["without"]["items_per_second"] for kind in ("capped_bomb", "worker_bomb")]
    low, high = min(rate["min"] for rate in rates), max(rate["max"] for rate in rates)
    p99 = result["numeric"]["capped_bomb"]["ratios"]["request_p99"]["median"]
    return f"{low:,.0f} to {high:,.0f} integers a second; refused bombs leave the p99 of the others at {p99:.1f}"


def _range(spread: dict[str, float], factor: float, digits: int) -> str:
    """Median, and smallest and largest."""
    median, low, high = (f"{spread[name] * factor:.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} [{low}, {high}]"


@dataclass(frozen=True)
class Benchmark:
    """A module of this folder and its result.

    Attributes:
        what: Is measured.
        minutes: It takes, about, on 2 idle CPU cores.
        describe: A result in a line.
    """

    what: str
    minutes: float
    describe: Callable[[dict[str, Any]], str]

    @property
    def name(self) -> str:
        """Of the module and of the file of its result."""
        return self.describe.__name__


BENCHMARKS = (
    Benchmark("a step against the same work done raw", 3, step_time),
    Benchmark("a step against TRL's GRPOTrainer, openr1 / TRL", 25, against_trl),
    Benchmark("a step sampled ahead (max_staleness 1) against none", 13, staleness),
    Benchmark("an update with packing against padding, rows sorted by length", 6, packing),
    Benchmark("memory of log-probs and entropies, forward and backward", 2, log_prob_memory),
    Benchmark("the reward server under load", 5, reward_server),
)


def table(results: Path) -> list[list[str]]:
    """A row for each benchmark; those without a result are not measured."""
    rows = [HEADER]
    for one in BENCHMARKS:
        path = results / f"{one.name}.json"
        shown, origin = "not measured", ""
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            machine = result["machine"]
            shown = one.describe(result)
            origin = f"{machine['cores']} cores, {machine['cpu']}; {machine['commit'][:7]}, {machine['date']}"
        rows.append([one.what, f"`python -m benchmarks.{one.name}`", shown, origin, f"`{path.name}`"])
    return rows


def write_page(results: Path, page: Path) -> None:
    """Write the table between its marks.

    Raises:
        ConfigError: The page has no such marks.
    """
    write_whole(page, fill_table(page.read_text(encoding="utf-8"), "measurements", table(results)))


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code. A benchmark that fails does not keep the others from being made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--page", action="store_true", help="measure nothing, write the table")
    args = parser.parse_args(argv)
    failed = []
    if not args.page:
        minutes = sum(one.minutes for one in BENCHMARKS)
        print(f"{len(BENCHMARKS)} benchmarks, about {minutes:.0f} minutes on 2 idle cores", flush=True)
        for one in BENCHMARKS:
            print(f"{one.name}: about {one.minutes:.0f} minutes", flush=True)
            words = [sys.executable, "-m", f"benchmarks.{one.name}"]
            if subprocess.run(words, cwd=ROOT, check=False).returncode:
                failed.append(one.name)
    write_page(RESULTS, PAGE)
    print(f"{PAGE}: written" + "".join(f"; {name} FAILED" for name in failed))
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
