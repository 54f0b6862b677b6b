"""SFT against RL on Countdown and the 24 game, at equal budgets of tokens; results: docs/experiments/sft_vs_rl.md.

    python -m benchmarks.sft_vs_rl [--only WORD ...] [--folder runs/sft_vs_rl] [--results benchmarks/results/sft_vs_rl]

Every run starts from one base model, which is made first. It spends its budget, is measured on all six benchmarks, and
is kept as JSON; a run whose JSON is there is not made again. When none is left, tables and plots are written.
"""

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import puzzles
from benchmarks.experiment import Job
from benchmarks.sft_vs_rl_arms import SEEDS, Arm, Place, arms_of, run_name
from benchmarks.sft_vs_rl_data import TASKS
from benchmarks.sft_vs_rl_page import write_page

EVAL_SECONDS = 40


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
        **puzzles.measure(model, root / "data", folder / "eval", seed),
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
    return puzzles.main("sft_vs_rl", "SFT against RL, at equal budgets of tokens", all_jobs, write_page, argv)


if __name__ == "__main__":
    raise SystemExit(main())
