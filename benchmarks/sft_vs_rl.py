"""SFT against RL on Countdown and the 24 game, at equal budgets of tokens; results: docs/experiments/sft_vs_rl.md.

    python -m benchmarks.sft_vs_rl [--only WORD ...] [--folder runs/sft_vs_rl] [--results benchmarks/results/sft_vs_rl]

Every run starts from one base model, which is made first. It spends its budget, is measured on all six benchmarks, and
is kept as JSON; a run whose JSON is there is not made again. When none is left, tables and plots are written.
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.experiment import Job, run_command, run_jobs, unfinished
from benchmarks.machine import ROOT
from benchmarks.sft_vs_rl_arms import SEEDS, Arm, Place, arms_of, run_name
from benchmarks.sft_vs_rl_data import BENCHMARKS, TASKS, read_problem, write_base_traces, write_data
from benchmarks.sft_vs_rl_page import write_page
from eval.result import summarize
from eval.samples import SampleFile
from openr1.errors import OpenR1Error

EVAL_SAMPLES = 4
EVAL_SECONDS = 40
BASE_SECONDS = 330


def make_base(folder: Path) -> None:
    """Data, and the base model: data/tiny_base, taught a little of larger numbers and of four."""
    print("data and base model", flush=True)
    write_data(folder / "data")
    traces = folder / "base_traces.jsonl"
    write_base_traces(traces)
    shutil.rmtree(folder / "base", ignore_errors=True)
    run_command(
        folder / "base.log",
        *("bash", "scripts/sft_cot.sh", "scripts/configs/sft_countdown_tiny.yaml", "--run.name", "base"),
        *("--run.output_dir", str(folder), "--model.path", "data/tiny_base", "--data.train", str(traces)),
        *("--data.max_len", "512", "--optimizer.learning_rate", "1.5e-3", "--policy.train_batch_size", "192"),
    )


def measure(model: Path, data: Path, output: Path, seed: int) -> dict[str, Any]:
    """Sample all benchmarks; for each its figures, and the share of right samples of each problem."""
    files = ",".join(str(data / f"{name}.jsonl") for name in BENCHMARKS)
    seconds = run_command(
        output / "eval.log",
        *(sys.executable, "-m", "cli", "eval", "--model", str(model), "--benchmarks", files, "--output", str(output)),
        *("--n", str(EVAL_SAMPLES), "--temperature", "1", "--max-tokens", "256", "--seed", str(seed)),
    )
    return {"eval_seconds": round(seconds, 1), "benchmarks": {name: read_measured(output, name) for name in BENCHMARKS}}


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


def make_run(arm: Arm, task: str, seed: int, root: Path, folder: Path) -> dict[str, Any]:
    """One run: train as the arm does, measure."""
    place = Place(folder, root, task, seed)
    trained = arm.train(place)
    model = place.base if trained is None else trained.model
    return {
        "task": task,
        "arm": arm.name,
        "seed": seed,
        "stages": [] if trained is None else trained.stages,
        **measure(model, root / "data", folder / "eval", seed),
    }


def all_jobs(root: Path) -> list[Job]:
    """All runs, seed by seed, so that an experiment that was stopped has whole seeds."""
    jobs = []
    for seed in SEEDS:
        for task in TASKS:
            for arm in arms_of(task):
                work = partial(make_run, arm, task, seed, root)
                jobs.append(Job(run_name(task, arm.name, seed), arm.seconds + EVAL_SECONDS, work))
    return jobs


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sft_vs_rl", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="runs with one of these in their names")
    parser.add_argument("--folder", type=Path, default=Path("runs/sft_vs_rl"))
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/sft_vs_rl")
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
        if args.only == [""]:
            write_page(args.results)
    except OpenR1Error as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: stopped; the same command goes on where it was\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
