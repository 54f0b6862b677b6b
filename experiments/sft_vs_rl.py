"""SFT against RL on Countdown and the 24 game, at equal budgets of tokens; results: docs/experiments/sft_vs_rl.md.

    python -m experiments.sft_vs_rl [--only WORD ...] [--folder FOLDER] [--results experiments/results/sft_vs_rl]

Every run starts from one base model, which is made first. It spends its budget, is measured on all six benchmarks, and
is kept as JSON; a run whose JSON is there is not made again. When none is left, tables and plots are written.
"""

from functools import partial
from pathlib import Path
from typing import Any

from experiments import puzzles
from experiments.jobs import Job
from experiments.sft_vs_rl_data import TASKS
from experiments.sft_vs_rl_page import write_page
from experiments.sft_vs_rl_variants import SEEDS, Place, Variant, run_name, variants_of

EVAL_SECONDS = 40


def make_run(variant: Variant, task: str, seed: int, root: Path, folder: Path) -> dict[str, Any]:
    """One run: train as the variant does, measure."""
    place = Place(folder, root, task, seed)
    trained = variant.train(place)
    model = place.base if trained is None else trained.model
    return {
        "task": task,
        "arm": variant.name,  # key of the results that are kept
        "seed": seed,
        "stages": [] if trained is None else trained.stages,
        **puzzles.measure(model, root / "data", folder / "eval", seed),
    }


def all_jobs(root: Path) -> list[Job]:
    """All runs, seed by seed, so that an experiment that was stopped has whole seeds."""
    jobs = []
    for seed in SEEDS:
        for task in TASKS:
            for variant in variants_of(task):
                work = partial(make_run, variant, task, seed, root)
                jobs.append(Job(run_name(task, variant.name, seed), variant.seconds + EVAL_SECONDS, work))
    return jobs


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return puzzles.main("sft_vs_rl", "SFT against RL, at equal budgets of tokens", all_jobs, write_page, argv)


if __name__ == "__main__":
    raise SystemExit(main())
