"""Compare SFT and RL on Countdown and the 24 game at equal token budgets; results: docs/experiments/sft_vs_rl.md.

    python -m experiments.sft_vs_rl [--only WORD ...] [--folder FOLDER] [--results experiments/results/sft_vs_rl]

All runs start from the same base model, which is trained first. A run spends its token budget and is evaluated on all
six benchmarks; its result is stored as JSON. Runs that already have a result are skipped. When all runs are complete,
the tables and plots are written.
"""

from functools import partial
from pathlib import Path
from typing import Any

from experiments import puzzles
from experiments.jobs import Job
from experiments.sft_vs_rl_data import TASKS
from experiments.sft_vs_rl_page import write_page
from experiments.sft_vs_rl_variants import SEEDS, RunContext, Variant, run_name, variants_of

EVAL_SECONDS = 40


def make_run(variant: Variant, task: str, seed: int, root: Path, folder: Path) -> dict[str, Any]:
    """Perform one run: train the variant and evaluate it."""
    context = RunContext(folder, root, task, seed)
    result = variant.train(context)
    model = context.base if result is None else result.model
    return {
        "task": task,
        "arm": variant.name,  # the key of all stored results
        "seed": seed,
        "stages": [] if result is None else result.stages,
        **puzzles.evaluate(model, root / "data", folder / "eval", seed),
    }


def all_jobs(root: Path) -> list[Job]:
    """Return all runs, seed by seed, so that an interrupted experiment has complete seeds."""
    jobs = []
    for seed in SEEDS:
        for task in TASKS:
            for variant in variants_of(task):
                work = partial(make_run, variant, task, seed, root)
                jobs.append(Job(run_name(task, variant.name, seed), variant.seconds + EVAL_SECONDS, work))
    return jobs


def main(argv: list[str] | None = None) -> int:
    """Run the experiment; returns the exit code."""
    return puzzles.run_experiment("sft_vs_rl", "Compare SFT and RL at equal token budgets", all_jobs, write_page, argv)


if __name__ == "__main__":
    raise SystemExit(main())
