"""Tables and plots of the comparison of SFT and RL, from the results of its runs."""

from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.sft_vs_rl_arms import SEEDS, arms_of, run_name
from benchmarks.sft_vs_rl_data import BENCHMARKS, TASKS
from benchmarks.tables import Runs, accuracy_table, cost_table, fill, pool, read_results
from eval.plots import draw
from openr1.runtime.files import write_whole

PAGE = ROOT / "docs/experiments/sft_vs_rl.md"
PLOTS = ("accuracy.png", "accuracy_seconds.png", "length_accuracy.png", "errors.png")
RIVAL = "grpo"
"""The arm that differences are to."""


def write_page(results: Path, page: Path = PAGE) -> None:
    """Write the tables between the marks of the page, and the plots into a folder of its name.

    Raises:
        ConfigError: The page has no marks for a table.
    """
    text = page.read_text(encoding="utf-8")
    for task in TASKS:
        runs, benchmarks = read_runs(results, task), benchmarks_of(task)
        text = fill(text, f"{task} accuracy", accuracy_table(runs, benchmarks, RIVAL))
        text = fill(text, f"{task} cost", cost_table(runs, task))
        for name, image in draw([pool(arm, seeds, benchmarks) for arm, seeds in runs.items()]).items():
            if name in PLOTS:
                path = page.with_suffix("") / f"{task}_{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image)
    write_whole(page, text)
    print(f"{page}: tables and plots of {results}")


def read_runs(results: Path, task: str) -> Runs:
    """The results of a task's runs; see `read_results`."""
    names = {arm.name: [run_name(task, arm.name, seed) for seed in SEEDS] for arm in arms_of(task)}
    return read_results(results, names, RIVAL)


def benchmarks_of(task: str) -> list[str]:
    """What a task's runs are compared on: its own three benchmarks, and the other task's first."""
    own = [name for name in BENCHMARKS if name.startswith(task)]
    return own + [other for other in TASKS if other != task]
