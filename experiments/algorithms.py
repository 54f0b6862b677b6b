"""Compare advantage estimators, losses and stale rollouts at equal token budgets.

    python -m experiments.algorithms [--only WORD ...] [--folder FOLDER] [--results experiments/results/algorithms]

Results: docs/experiments/algorithms.md. Every run is reinforcement learning on Countdown from the base model of
experiments.sft_vs_rl, which is trained first if it does not exist. Variants differ only in their settings. Runs that
already have a result are skipped.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.machine import ROOT
from benchmarks.markdown import fill_table
from eval.plots import COLOURS, to_png
from experiments import puzzles
from experiments.jobs import Job, result_path
from experiments.sft_vs_rl_variants import BUDGET, GRPO_STEPS, SEEDS, RunContext, grpo, run_name
from experiments.tables import Runs, accuracy_table, cost_table, read_results
from openr1.runtime.files import write_whole

TASK = "countdown"
BENCHMARKS = (TASK, f"{TASK}_larger")
RUN_SECONDS = 130
PAGE = ROOT / "docs/experiments/algorithms.md"

TWO_UPDATES = {"policy.train_batch_size": 128, "optimizer.learning_rate": 1e-4}
"""Two optimizer steps per training step: with one, all ratios are 1 and all clipped losses are the same."""
ESTIMATORS: dict[str, dict[str, object]] = {
    "grpo": {},
    "dr_grpo": {"algorithm.advantage_estimator": "dr_grpo", "algorithm.loss_aggregation": "constant"},
    "rloo": {"algorithm.advantage_estimator": "rloo"},
    "reinforce++-baseline": {"algorithm.advantage_estimator": "reinforce++-baseline"},
    "dapo": {
        "algorithm.eps_clip_high": 0.28,
        "algorithm.init_kl_coef": 0,
        "algorithm.dynamic_sampling_rounds": 3,
        "reward.overlong_buffer_len": 32,
    },
    "gspo": {
        "algorithm.policy_loss": "gspo",
        "algorithm.loss_aggregation": "sequence",
        "algorithm.eps_clip_low": 3e-4,
        "algorithm.eps_clip_high": 4e-4,
    },
}
"""Settings that define the algorithm are as published: DAPO arXiv:2503.14476, GSPO arXiv:2507.18071."""
STALENESS: dict[str, dict[str, object]] = {
    "staleness 0": {},
    "staleness 1": {"rollout.max_staleness": 1},
    "staleness 1, uncorrected": {"rollout.max_staleness": 1, "off_policy.importance": "none"},
    "staleness 2": {"rollout.max_staleness": 2},
    "staleness 2, uncorrected": {"rollout.max_staleness": 2, "off_policy.importance": "none"},
}
TABLES: dict[str, tuple[dict[str, dict[str, object]], str]] = {
    "estimators": ({variant: TWO_UPDATES | flags for variant, flags in ESTIMATORS.items()}, "grpo"),
    "staleness": (STALENESS, "staleness 0"),
}
"""For each table, the settings of its variants and the name of the variant that the others are compared with."""


def result_name(table: str, variant: str, seed: int) -> str:
    """Return the name of a run, of its folder and of its result file."""
    return run_name(table, variant.replace(", ", "_").replace(" ", "_"), seed)


def make_run(settings: Mapping[str, object], variant: str, seed: int, root: Path, folder: Path) -> dict[str, Any]:
    """Perform one run: train with the settings and evaluate."""
    context = RunContext(folder, root, TASK, seed)
    flags = [word for key, value in settings.items() for word in (f"--{key}", value)]
    result = grpo(context, context.base, context.prompts, BUDGET, GRPO_STEPS, flags)
    evaluation = puzzles.evaluate(result.model, root / "data", folder / "eval", seed, BENCHMARKS)
    return {"arm": variant, "seed": seed, "settings": dict(settings), "stages": result.stages, **evaluation}


def all_jobs(root: Path) -> list[Job]:
    """Return all runs, seed by seed, so that an interrupted experiment has complete seeds."""
    return [
        Job(result_name(table, variant, seed), RUN_SECONDS, partial(make_run, settings, variant, seed, root))
        for table, (variants, _) in TABLES.items()
        for seed in SEEDS
        for variant, settings in variants.items()
    ]


def write_page(results: Path, page: Path = PAGE) -> None:
    """Replace the generated tables in the page, and write the plots to the folder of the same name.

    Tables with missing results are left unchanged.
    """
    text = page.read_text(encoding="utf-8")
    for table, (variants, baseline) in TABLES.items():
        names = {variant: [result_name(table, variant, seed) for seed in SEEDS] for variant in variants}
        if not all(result_path(results, name).exists() for variant_runs in names.values() for name in variant_runs):
            continue
        runs = read_results(results, names, baseline)
        text = fill_table(text, f"{table} accuracy", accuracy_table(runs, BENCHMARKS, baseline))
        text = fill_table(text, f"{table} cost", cost_table(runs, TASK))
        path = page.with_suffix("") / f"{table}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_png(plot_curves(runs)))
    write_whole(page, text)
    print(f"{page}: tables and plots of {results}")


def plot_curves(runs: Runs) -> Figure:
    """Plot the accuracy of each step's responses against tokens, as means over seeds."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    ax = figure.add_subplot()
    for (variant, seeds), colour in zip(runs.items(), COLOURS, strict=False):
        tokens, accuracies = mean_curve([run["stages"][0]["curve"] for run in seeds])
        ax.plot(tokens, accuracies, color=colour, label=variant)
    ax.set_xlabel("tokens generated and trained")
    ax.set_ylabel("accuracy of the step's responses")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def mean_curve(curves: Sequence[Sequence[dict[str, float]]]) -> tuple[list[float], list[float]]:
    """Return the mean tokens and the mean accuracy of each step; the result is as long as the shortest curve."""
    steps = list(zip(*curves, strict=False))
    tokens = [fmean(one["generated"] + one["trained"] for one in step) for step in steps]
    return tokens, [fmean(one["accuracy"] for one in step) for step in steps]


def main(argv: list[str] | None = None) -> int:
    """Run the experiment; returns the exit code."""
    title = "Compare advantage estimators, losses and stale rollouts at equal token budgets"
    return puzzles.run_experiment("algorithms", title, all_jobs, write_page, argv)


if __name__ == "__main__":
    raise SystemExit(main())
