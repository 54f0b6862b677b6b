"""Shared parts of the experiments on Countdown and the 24 game: base model, datasets, evaluation, command line."""

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
from experiments.jobs import Job, pending_jobs, run_jobs
from experiments.sft_vs_rl_data import BENCHMARKS, read_problem, write_base_traces, write_datasets
from openr1.errors import OpenR1Error

EVAL_SAMPLES = 4
BASE_SECONDS = 330
FOLDER = Path("runs/sft_vs_rl")
"""Folder of the datasets, the base model and the runs; all experiments share it."""


def make_base_model(folder: Path) -> None:
    """Write the datasets, and train the base model: data/models/tiny_base fine-tuned on larger and on four numbers."""
    print("writing the datasets and training the base model", flush=True)
    write_datasets(folder / "data")
    traces = folder / "base_traces.jsonl"
    write_base_traces(traces)
    shutil.rmtree(folder / "base", ignore_errors=True)
    run_command(
        folder / "base.log",
        *("bash", "scripts/sft_cot.sh", "scripts/configs/sft_countdown_tiny.yaml", "--run.name", "base"),
        *("--run.output_dir", str(folder), "--model.path", "data/models/tiny_base", "--data.train", str(traces)),
        *("--data.max_len", "512", "--optimizer.learning_rate", "1.5e-3", "--policy.train_batch_size", "192"),
    )


def evaluate(
    model: Path, data: Path, output: Path, seed: int, benchmarks: Sequence[str] = BENCHMARKS
) -> dict[str, Any]:
    """Evaluate a model on benchmarks; returns the wall time and the result of each benchmark."""
    files = ",".join(str(data / f"{name}.jsonl") for name in benchmarks)
    seconds = run_command(
        output / "eval.log",
        *(sys.executable, "-m", "cli", "eval", "--model", str(model), "--benchmarks", files, "--output", str(output)),
        *("--n", str(EVAL_SAMPLES), "--temperature", "1", "--max-tokens", "256", "--seed", str(seed)),
    )
    return {
        "eval_seconds": round(seconds, 1),
        "benchmarks": {name: read_benchmark_result(output, name) for name in benchmarks},
    }


def read_benchmark_result(output: Path, name: str) -> dict[str, Any]:
    """Return the result of an evaluation on one benchmark; `shares` are fractions of correct samples by problem."""
    groups = list(SampleFile(output / f"samples/{name}.jsonl", EVAL_SAMPLES).complete().values())
    result = summarize(groups)
    correct: dict[str, list[bool]] = {}
    for group in groups:
        key = read_problem({"label": group[0].label}).key
        correct.setdefault(key, []).extend(sample.score == 1.0 for sample in group)
    return {
        "accuracy": result.accuracy,
        "response_length": result.response_length,
        "verdicts": result.verdicts,
        "shares": {key: round(sum(flags) / len(flags), 4) for key, flags in correct.items()},
    }


def run_experiment(
    name: str,
    title: str,
    all_jobs: Callable[[Path], list[Job]],
    write_page: Callable[[Path], None],
    argv: Sequence[str] | None,
) -> int:
    """Parse the command line of an experiment and run it; returns the exit code.

    Args:
        name: Name of the experiment's module and of its results folder.
        title: Description for `--help`.
        all_jobs: Returns all runs, given the folder that contains `data` and `base`.
        write_page: Writes tables and plots, given the results folder; called when all runs are complete.
        argv: Command-line arguments; None uses those of the process.
    """
    default_results = ROOT / f"experiments/results/{name}"
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=title)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORD", help="only runs whose names contain one of these"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument(
        "--results", type=Path, default=default_results, help="with another folder, the page is not updated"
    )
    args = parser.parse_args(argv)
    folder = args.folder.resolve()
    jobs = [job for job in all_jobs(folder) if any(word in job.name for word in args.only)]
    try:
        pending = pending_jobs(jobs, args.results)
        needs_base = bool(pending) and not (folder / "base/model").exists()
        seconds = sum(job.seconds for job in pending) + needs_base * BASE_SECONDS
        print(f"{len(pending)} of {len(jobs)} runs to do: about {seconds / 60:.0f} minutes on 2 CPU cores", flush=True)
        if needs_base:
            make_base_model(folder)
        run_jobs(jobs, folder, args.results)
        if args.only == [""] and args.results == default_results:
            write_page(default_results)
    except OpenR1Error as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; run the same command to resume\n")
    return 0
