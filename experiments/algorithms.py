"""Estimators, losses and stale rollouts, at equal budgets of tokens; results: docs/experiments/algorithms.md.

    python -m experiments.algorithms [--only WORD ...] [--folder FOLDER] [--results experiments/results/algorithms]

Every run is reinforcement learning on Countdown from the base model of experiments.sft_vs_rl, which is made first if it
is not there. Variants differ in their settings alone. A run whose JSON is there is not made again.
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
from experiments.sft_vs_rl_variants import BUDGET, GRPO_STEPS, SEEDS, Place, grpo, run_name
from experiments.tables import Runs, accuracy_table, cost_table, read_results
from openr1.files import write_whole

TASK = "countdown"
BENCHMARKS = (TASK, f"{TASK}_larger")
RUN_SECONDS = 130
PAGE = ROOT / "docs/experiments/algorithms.md"

TWO_UPDATES = {"policy.train_batch_size": 128, "optimizer.learning_rate": 1e-4}
"""Of a step's responses: with one, no ratio leaves 1, and all clipped losses are the same."""
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
"""Published settings where they are of the algorithm: dapo's of arXiv:2503.14476, gspo's of arXiv:2507.18071."""
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
"""Settings of each variant by the name of their table, and the variant that the others are compared with."""


def name_of(table: str, variant: str, seed: int) -> str:
    """Name of a run, of its folder and of its result."""
    return run_name(table, variant.replace(", ", "_").replace(" ", "_"), seed)


def make_run(settings: Mapping[str, object], variant: str, seed: int, root: Path, folder: Path) -> dict[str, Any]:
    """One run: train with the settings, measure."""
    place = Place(folder, root, TASK, seed)
    flags = [word for key, value in settings.items() for word in (f"--{key}", value)]
    trained = grpo(place, place.base, place.prompts, BUDGET, GRPO_STEPS, flags)
    measured = puzzles.measure(trained.model, root / "data", folder / "eval", seed, BENCHMARKS)
    return {"arm": variant, "seed": seed, "settings": dict(settings), "stages": trained.stages, **measured}


def all_jobs(root: Path) -> list[Job]:
    """All runs, seed by seed, so that an experiment that was stopped has whole seeds."""
    return [
        Job(name_of(table, variant, seed), RUN_SECONDS, partial(make_run, settings, variant, seed, root))
        for table, (variants, _) in TABLES.items()
        for seed in SEEDS
        for variant, settings in variants.items()
    ]


def write_page(results: Path, page: Path = PAGE) -> None:
    """Write the tables between the marks of the page, and the plots into a folder of its name.

    A table whose runs are not all made is left as it is.
    """
    text = page.read_text(encoding="utf-8")
    for table, (variants, rival) in TABLES.items():
        names = {variant: [name_of(table, variant, seed) for seed in SEEDS] for variant in variants}
        if not all(result_path(results, name).exists() for variant_runs in names.values() for name in variant_runs):
            continue
        runs = read_results(results, names, rival)
        text = fill_table(text, f"{table} accuracy", accuracy_table(runs, BENCHMARKS, rival))
        text = fill_table(text, f"{table} cost", cost_table(runs, TASK))
        path = page.with_suffix("") / f"{table}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_png(draw_curves(runs)))
    write_whole(page, text)
    print(f"{page}: tables and plots of {results}")


def draw_curves(runs: Runs) -> Figure:
    """Accuracy of each step's responses against tokens, means over seeds."""
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
    """Tokens and accuracies by step, means over the curves; it ends with the shortest."""
    steps = list(zip(*curves, strict=False))
    tokens = [fmean(one["generated"] + one["trained"] for one in step) for step in steps]
    return tokens, [fmean(one["accuracy"] for one in step) for step in steps]


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    title = "estimators, losses and stale rollouts, at equal budgets of tokens"
    return puzzles.main("algorithms", title, all_jobs, write_page, argv)


if __name__ == "__main__":
    raise SystemExit(main())
