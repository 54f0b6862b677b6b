"""Run all benchmarks of speed and memory, and write the table of docs/performance.md from their results.

    python -m benchmarks.all [--page]

With `--page`, only the table is written, from the stored results.
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
from openr1.runtime.files import write_whole

RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/performance.md"
HEADER = ["what", "command", "result", "machine, commit", "file"]


def step_time(result: dict[str, Any]) -> str:
    """Describe fractions of the wall time of a step."""
    names = {
        "sync_fraction": "sync",
        "outside_phases_fraction": "outside all phases",
        "rest_fraction": "overhead over the bare computation",
    }
    shares = ", ".join(f"{title} {_format_range(result[name], 100, 1)} %" for name, title in names.items())
    return f"{shares} of a step of {_format_range(result['step_seconds'], 1, 2)} s; median of {result['steps']} steps"


def against_trl(result: dict[str, Any]) -> str:
    """Describe the speed-up and the seconds of the phases, for each distribution of lengths."""
    parts = []
    for mix, one in result["mixes"].items():
        ours, theirs = one["openr1"]["seconds"], one["trl"]["seconds"]
        phases = ("generate", "reward", "reference", "update")
        seconds = ", ".join(f"{p} {ours[p]['median']:.2f} / {theirs[p]['median']:.2f}" for p in phases)
        parts.append(
            f"{mix} lengths: **{_format_range(one['speedup'], 1, 2)}** times the samples per second "
            f"({ours['step']['median']:.2f} s / {theirs['step']['median']:.2f} s per step; {seconds} s; "
            f"fastest configuration of TRL {result['trl']}: {one['trl_best']})"
        )
    return "<br>".join(parts)


def staleness(result: dict[str, Any]) -> str:
    """Describe the speed-ups of sampling one step ahead, with and without a reference model."""
    parts = []
    for workload, one in result["works"].items():
        seconds, ratios = one["median_step_seconds"], one["ratios"]
        one_core, both_cores = (
            ratios[f"{variant}_over_staleness_1"] for variant in ("staleness_0", "staleness_0_both_cores")
        )
        parts.append(
            f"{workload.replace('_', ' ')}: {seconds['staleness_1']:.2f} s per step, "
            f"**{_format_range(one_core, 1, 2)}** times as fast as synchronous sampling "
            f"({seconds['staleness_0']:.2f} s; upper bound {_format_range(one['at_most'], 1, 2)}), "
            f"{_format_range(both_cores, 1, 2)} times as fast as synchronous sampling with two threads each "
            f"({seconds['staleness_0_both_cores']:.2f} s)"
        )
    return "<br>".join([*parts, "engine and policy use one thread and core each otherwise"])


def packing(result: dict[str, Any]) -> str:
    """Describe the speed-up of an update, for each distribution of lengths and data type."""
    parts = [
        f"{mix}, {dtype}: {_format_range(one[dtype]['speedup'], 1, 2)} times as fast, log-probs "
        f"{_format_range(one[dtype]['speedup_log_probs'], 1, 2)}, both "
        f"{_format_range(one[dtype]['speedup_both'], 1, 2)}; "
        f"{one[dtype]['padding_fraction']:.0%} padding saved, {1 - one[dtype]['packed_fraction']:.0%} of the tokens "
        f"shared, gradients within {one[dtype]['gradient_difference']:.0e}"
        for mix, one in result["mixes"].items()
        for dtype in ("bfloat16", "float32")
    ]
    return "<br>".join(parts)


def log_prob_memory(result: dict[str, Any]) -> str:
    """Describe the memory of both implementations."""
    return (
        f"{result['tokens']:,} tokens of a vocabulary of {result['vocabulary']:,}: "
        f"{result['chunked']['gib']:.1f} GiB, versus {result['naive']['gib']:.1f} GiB for all logits at once"
    )


def reward_server(result: dict[str, Any]) -> str:
    """Describe the throughput, and the effect of items that are rejected by their size on ordinary requests."""
    rates = [result["numeric"][kind]["without"]["items_per_second"] for kind in ("oversized", "slow")]
    low, high = min(rate["min"] for rate in rates), max(rate["max"] for rate in rates)
    p99 = result["numeric"]["oversized"]["ratios"]["request_p99"]["median"]
    return (
        f"{low:,.0f} to {high:,.0f} integers per second; p99 latency with rejected ones: {p99:.1f} times that without"
    )


def weight_push(result: dict[str, Any]) -> str:
    """Describe speed and memory of each transfer, and of a file by safetensors' own writer."""
    parts = []
    for way in ("shm", "gloo"):
        one = result[way]
        parts.append(
            f"{way}: {_format_range(one['gb_per_second'], 1, 2)} GB/s, {_format_range(one['speedup'], 1, 2)} times as "
            f"fast as save_file, with {_format_range(one['peak_ratio'], 1, 2)} of its memory beside weights and file"
        )
    return "<br>".join([f"{result['bytes'] / 1e6:,.0f} MB to one receiver", *parts])


def cpu_bfloat16(result: dict[str, Any]) -> str:
    """Describe the speed-up over PyTorch's own layers, and the distance to a float32 model."""
    return (
        f"{_format_range(result['speedup'], 1, 1)} times as fast as PyTorch's own layers, "
        f"{_format_range(result['against_float32'], 1, 2)} times the seconds of a float32 model"
    )


def lora_update(result: dict[str, Any]) -> str:
    """Describe the shares after the first step at the lower learning rate."""
    parts = []
    for name, rates in result["models"].items():
        first = rates["1e-05"]["1"]
        parts.append(f"{name}: {first['adapters_share']:.1%} as adapters, {first['merged_share']:.1%} merged")
    return "<br>".join(["first step at 1e-5", *parts])


def plan(result: dict[str, Any]) -> str:
    """Describe the errors of predictions; docs/plan.md has all of them."""
    memory = [one["error"] for one in result["memory"].values()]
    steps = [one["step_error"] for one in result["time"].values()]
    return (
        f"peak memory of {len(memory)} variants {min(memory):+.0%} to {max(memory):+.0%}, time of a step of "
        f"{len(steps)} configs {min(steps):+.0%} to {max(steps):+.0%}"
    )


def _format_range(spread: dict[str, float], factor: float, digits: int) -> str:
    """Format median, minimum and maximum."""
    median, low, high = (f"{spread[name] * factor:.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} [{low}, {high}]"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark module of this folder.

    Attributes:
        what: What is measured.
        minutes: Estimated duration on 2 idle CPU cores.
        describe: Formats a result as one line; its name is the name of the module.
    """

    what: str
    minutes: float
    describe: Callable[[dict[str, Any]], str]

    @property
    def name(self) -> str:
        """Name of the module and of the result file."""
        return self.describe.__name__


BENCHMARKS = (
    Benchmark("training step versus the bare computation", 3, step_time),
    Benchmark("training step versus TRL's GRPOTrainer (openr1 / TRL)", 25, against_trl),
    Benchmark("sampling one step ahead (max_staleness 1) versus synchronous sampling", 13, staleness),
    Benchmark("update and log-probs with packing versus padding (rows sorted by length)", 6, packing),
    Benchmark("memory of log-probs and entropies, forward and backward", 2, log_prob_memory),
    Benchmark("weight push over shared memory and gloo, versus a file by safetensors' save_file", 4, weight_push),
    Benchmark("forward and backward pass in bfloat16 on a CPU without instructions for it", 2, cpu_bfloat16),
    Benchmark("part of a LoRA update that reaches engines, as adapters and merged in bfloat16", 4, lora_update),
    Benchmark("predictions of `openr1 plan` versus measurements", 12, plan),
    Benchmark("reward server under load", 5, reward_server),
)


def table(results: Path) -> list[list[str]]:
    """Return the table: one row per benchmark; benchmarks without a result are marked as not measured."""
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
    """Replace the table in the page.

    Raises:
        ConfigError: The page has no place for the table.
    """
    write_whole(page, fill_table(page.read_text(encoding="utf-8"), "measurements", table(results)))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks; returns the exit code, 1 if any failed. A failure does not stop the other benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--page", action="store_true", help="only write the table, from stored results")
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
