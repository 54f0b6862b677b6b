"""Tables and plots of the comparison of SFT and RL."""

from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.markdown import fill_table
from eval.plots import draw
from experiments.sft_vs_rl_data import BENCHMARKS, TASKS
from experiments.sft_vs_rl_variants import SEEDS, run_name, variants_of
from experiments.tables import Runs, accuracy_table, cost_table, pool_seeds, read_results
from openr1.runtime.files import write_whole

PAGE = ROOT / "docs/experiments/sft_vs_rl.md"
PLOTS = ("accuracy.png", "accuracy_seconds.png", "length_accuracy.png", "errors.png")
BASELINE = "grpo"
"""The variant that all others are compared with."""


def write_page(results: Path, page: Path = PAGE) -> None:
    """Replace the generated tables in the page, and write the plots to the folder of the same name.

    Raises:
        ConfigError: The page has no place for a table, or results are missing.
    """
    text = page.read_text(encoding="utf-8")
    for task in TASKS:
        runs, benchmarks = read_runs(results, task), benchmarks_of(task)
        text = fill_table(text, f"{task} accuracy", accuracy_table(runs, benchmarks, BASELINE))
        text = fill_table(text, f"{task} cost", cost_table(runs, task))
        for name, image in draw([pool_seeds(variant, seeds, benchmarks) for variant, seeds in runs.items()]).items():
            if name in PLOTS:
                path = page.with_suffix("") / f"{task}_{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image)
    write_whole(page, text)
    print(f"{page}: tables and plots of {results}")


def read_runs(results: Path, task: str) -> Runs:
    """Return the results of all runs on a task; see `read_results`."""
    names = {variant.name: [run_name(task, variant.name, seed) for seed in SEEDS] for variant in variants_of(task)}
    return read_results(results, names, BASELINE)


def benchmarks_of(task: str) -> list[str]:
    """Return the benchmarks of a task's tables: its own three, and the first of the other task."""
    own = [name for name in BENCHMARKS if name.startswith(task)]
    return own + [other for other in TASKS if other != task]
