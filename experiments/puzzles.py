"""What the experiments on Countdown and the 24 game share: base model and data, measuring, and the command."""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import run_command
from benchmarks.machine import ROOT
from eval.result import summarize
from eval.samples import SampleFile
from experiments.jobs import Job, run_jobs, unfinished
from experiments.sft_vs_rl_data import BENCHMARKS, read_problem, write_base_traces, write_data
from openr1.errors import OpenR1Error

EVAL_SAMPLES = 4
BASE_SECONDS = 330
FOLDER = Path("runs/sft_vs_rl")
"""Of data, base model and runs: the experiments start from the same."""


def make_base(folder: Path) -> None:
    """Data, and the base model: data/models/tiny_base, taught a little of larger numbers and of four."""
    print("data and base model", flush=True)
    write_data(folder / "data")
    traces = folder / "base_traces.jsonl"
    write_base_traces(traces)
    shutil.rmtree(folder / "base", ignore_errors=True)
    run_command(
        folder / "base.log",
        *("bash", "scripts/sft_cot.sh", "scripts/configs/sft_countdown_tiny.yaml", "--run.name", "base"),
        *("--run.output_dir", str(folder), "--model.path", "data/models/tiny_base", "--data.train", str(traces)),
        *("--data.max_len", "512", "--optimizer.learning_rate", "1.5e-3", "--policy.train_batch_size", "192"),
    )


def measure(model: Path, data: Path, output: Path, seed: int, benchmarks: Sequence[str] = BENCHMARKS) -> dict[str, Any]:
    """Sample benchmarks; for each its figures, and the share of right samples of each problem."""
    files = ",".join(str(data / f"{name}.jsonl") for name in benchmarks)
    seconds = run_command(
        output / "eval.log",
        *(sys.executable, "-m", "cli", "eval", "--model", str(model), "--benchmarks", files, "--output", str(output)),
        *("--n", str(EVAL_SAMPLES), "--temperature", "1", "--max-tokens", "256", "--seed", str(seed)),
    )
    return {"eval_seconds": round(seconds, 1), "benchmarks": {name: read_measured(output, name) for name in benchmarks}}


def read_measured(output: Path, name: str) -> dict[str, Any]:
    """What an evaluation found on one benchmark."""
    groups = list(SampleFile(output / f"samples/{name}.jsonl", EVAL_SAMPLES).complete().values())
    result = summarize(groups)
    right: dict[str, list[bool]] = {}
    for group in groups:
        key = read_problem({"label": group[0].label}).key
        right.setdefault(key, []).extend(sample.score == 1.0 for sample in group)
    return {
        "accuracy": result.accuracy,
        "response_length": result.response_length,
        "verdicts": result.verdicts,
        "shares": {key: round(sum(flags) / len(flags), 4) for key, flags in right.items()},
    }


def main(
    name: str,
    title: str,
    all_jobs: Callable[[Path], list[Job]],
    write_page: Callable[[Path], None],
    argv: Sequence[str] | None,
) -> int:
    """Entry point of an experiment; returns the exit code.

    Args:
        name: Of its module, and of the folder of its results.
        title: For `--help`.
        all_jobs: Its runs, given the folder that has `data` and `base`.
        write_page: Writes its tables and plots, given the folder of results; called when no run is left.
        argv: Arguments; None for those of the process.
    """
    kept = ROOT / f"experiments/results/{name}"
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=title)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="runs with one of these in their names")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--results", type=Path, default=kept, help="another folder leaves the page as it is")
    args = parser.parse_args(argv)
    folder = args.folder.resolve()
    jobs = [job for job in all_jobs(folder) if any(word in job.name for word in args.only)]
    try:
        left = unfinished(jobs, args.results)
        needs_base = bool(left) and not (folder / "base/model").exists()
        seconds = sum(job.seconds for job in left) + needs_base * BASE_SECONDS
        print(f"{len(left)} of {len(jobs)} runs to make: about {seconds / 60:.0f} minutes on 2 CPU cores", flush=True)
        if needs_base:
            make_base(folder)
        run_jobs(jobs, folder, args.results)
        if args.only == [""] and args.results == kept:
            write_page(kept)
    except OpenR1Error as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: stopped; the same command goes on where it was\n")
    return 0
