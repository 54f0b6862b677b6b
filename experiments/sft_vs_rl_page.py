"""Tables and plots of the comparison of SFT and RL, from the results of its runs."""

from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.markdown import fill_table
from eval.plots import draw
from experiments.sft_vs_rl_data import BENCHMARKS, TASKS
from experiments.sft_vs_rl_variants import SEEDS, run_name, variants_of
from experiments.tables import Runs, accuracy_table, cost_table, pool, read_results
from openr1.files import write_whole

PAGE = ROOT / "docs/experiments/sft_vs_rl.md"
PLOTS = ("accuracy.png", "accuracy_seconds.png", "length_accuracy.png", "errors.png")
RIVAL = "grpo"
"""The variant that differences are to."""


def write_page(results: Path, page: Path = PAGE) -> None:
    """Write the tables between the marks of the page, and the plots into a folder of its name.

    Raises:
        ConfigError: The page has no marks for a table.
    """
    text = page.read_text(encoding="utf-8")
    for task in TASKS:
        runs, benchmarks = read_runs(results, task), benchmarks_of(task)
        text = fill_table(text, f"{task} accuracy", accuracy_table(runs, benchmarks, RIVAL))
        text = fill_table(text, f"{task} cost", cost_table(runs, task))
        for name, image in draw([pool(variant, seeds, benchmarks) for variant, seeds in runs.items()]).items():
            if name in PLOTS:
                path = page.with_suffix("") / f"{task}_{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image)
    write_whole(page, text)
    print(f"{page}: tables and plots of {results}")


def read_runs(results: Path, task: str) -> Runs:
    """The results of a task's runs; see `read_results`."""
    names = {variant.name: [run_name(task, variant.name, seed) for seed in SEEDS] for variant in variants_of(task)}
    return read_results(results, names, RIVAL)


def benchmarks_of(task: str) -> list[str]:
    """What a task's runs are compared on: its own three benchmarks, and the other task's first."""
    own = [name for name in BENCHMARKS if name.startswith(task)]
    return own + [other for other in TASKS if other != task]
