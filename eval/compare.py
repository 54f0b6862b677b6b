"""The tables and files of `compare`, which shows evaluated runs side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape

from eval.plots import PLOTS, draw
from eval.report import Table, markdown_table
from eval.runs import EvaluatedRun, parse_run_path, read_run
from eval.series import KINDS, benchmark_names, difference, kind_fractions
from openr1.errors import ConfigError
from openr1.runtime.console import print_table, say

EMPTY = "empty: not evaluated on it"


def read_runs(words: Sequence[str]) -> list[EvaluatedRun]:
    """Read all runs and check that they are comparable.

    Raises:
        MissingError: A file does not exist.
        ConfigError: A run is malformed, two runs have the same label, or benchmarks of the same name have different
            problems.
    """
    run_paths = [parse_run_path(word) for word in words]
    labels: set[str] = set()
    for run_path in run_paths:
        if run_path.label in labels:
            raise ConfigError(f"two runs have the label {run_path.label!r}; give distinct labels: label=FOLDER")
        labels.add(run_path.label)
    runs = [read_run(run_path) for run_path in run_paths]
    first: dict[str, EvaluatedRun] = {}
    for run in runs:
        for name, shares in run.shares.items():
            other = first.setdefault(name, run)
            if other.shares[name].keys() != shares.keys():
                raise ConfigError(
                    f"benchmark {name}: {run.folder} and {other.folder} have different problems or labels; compare "
                    "evaluations of the same file"
                )
    return runs


def accuracy_table(runs: Sequence[EvaluatedRun]) -> Table:
    """Accuracies: one row per run, one column per benchmark. Cells are empty if the run lacks the benchmark."""
    names = benchmark_names(runs)
    rows = []
    for run in runs:
        results = [run.results.get(name) for name in names]
        cells = ["" if result is None else _with_interval(result.accuracy, result.ci95) for result in results]
        rows.append([run.label, *cells])
    return ["run", *names], rows


def _with_interval(mean: float, ci95: tuple[float, float], form: str = ".3f") -> str:
    return f"{mean:{form}} [{ci95[0]:{form}}, {ci95[1]:{form}}]"


def benchmark_table(runs: Sequence[EvaluatedRun], benchmark: str) -> Table:
    """All metrics of a benchmark, one row per run that has it.

    pass@k and maj@k use the largest k that is common to these runs. The difference to the first of all runs is empty
    for that run itself, and if that run lacks the benchmark.
    """
    having = [run for run in runs if benchmark in run.results]
    k = max(set.intersection(*(set(run.results[benchmark].pass_at) for run in having)))
    header = ["run", "problems", "samples", "accuracy [95 %]", f"minus {runs[0].label} [95 %]", f"pass@{k}", f"maj@{k}"]
    rows = []
    for run in having:
        result = run.results[benchmark]
        minus = ""
        if run is not runs[0] and benchmark in runs[0].results:
            paired = difference(run, runs[0], benchmark)
            minus = _with_interval(paired.mean, paired.ci95, "+.3f")
        figures = [run.label, str(result.num_problems), str(result.n_samples_per_prompt)]
        figures += [_with_interval(result.accuracy, result.ci95), minus]
        figures += [f"{result.pass_at[k]:.3f}", f"{result.maj[k]:.3f}", f"{result.response_length:.1f}"]
        rows.append(figures + [f"{share:.1%}" for share in kind_fractions(result).values()])
    return [*header, "tokens", *KINDS], rows


def training_table(runs: Sequence[EvaluatedRun]) -> Table:
    """Training cost of each model, one row per run whose training run is given."""
    rows = []
    for run in runs:
        if run.training is not None:
            seconds = "n/a" if run.training.seconds is None else f"{run.training.seconds:.0f}"
            rows.append(
                [run.label, run.training.folder, str(run.training.steps), f"{run.training.tokens:.0f}", seconds]
            )
    return ["run", "training run", "steps", "tokens", "seconds"], rows


def settings_table(runs: Sequence[EvaluatedRun]) -> Table:
    """Settings of the evaluations, one row per run."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    rows = [[run.label, run.folder, *(str(run.settings.get(name, "")) for name in names)] for run in runs]
    return ["run", "folder", *names], rows


def to_json(runs: Sequence[EvaluatedRun]) -> str:
    """compare.json: all numbers of each run, and the paired differences to the first run per benchmark."""
    first = runs[0]
    differences = {
        name: {run.label: asdict(difference(run, first, name)) for run in runs[1:] if name in run.results}
        for name in first.results
    }
    rows = {
        run.label: {
            "folder": run.folder,
            "settings": run.settings,
            "results": {name: asdict(result) for name, result in run.results.items()},
            "kinds": {name: kind_fractions(result) for name, result in run.results.items()},
            "training": None if run.training is None else asdict(run.training),
        }
        for run in runs
    }
    return json.dumps({"first": first.label, "runs": rows, "differences_to_first": differences}, indent=2) + "\n"


def to_markdown(runs: Sequence[EvaluatedRun], plots: Sequence[str]) -> str:
    """compare.md: accuracies, plots, details of every benchmark, training costs and settings."""
    parts = ["# Comparison", f"Accuracy [95 % interval]; {EMPTY}.", markdown_table(*accuracy_table(runs))]
    parts += [f"![{name}]({name})" for name in plots]
    for name in benchmark_names(runs):
        parts += [f"## {name}", markdown_table(*benchmark_table(runs, name))]
    if any(run.training is not None for run in runs):
        parts += ["## Training", markdown_table(*training_table(runs))]
    parts += ["## Settings", markdown_table(*settings_table(runs))]
    different = differing_settings(runs)
    if different:
        parts.append(f"The runs differ in {', '.join(different)}: differences in accuracy may come from that.")
    return "\n\n".join(parts) + "\n"


def differing_settings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Names of the settings in which the evaluations differ, other than the model."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name != "model")
    return [name for name in names if len({run.settings.get(name) for run in runs}) > 1]


def write_files(folder: Path, files: Mapping[str, bytes], stale: Sequence[str]) -> None:
    """Write all files under temporary names, then rename them, and remove `stale` files of an earlier call.

    Raises:
        ConfigError: The folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / f"{name}.tmp").write_bytes(content)
        for name in files:
            (folder / f"{name}.tmp").replace(folder / name)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written to: {error.strerror}; choose another --output") from error


def compare(words: Sequence[str], folder: Path) -> None:
    """Compare runs, given as `[label=]FOLDER[:TRAINING_FOLDER]`: write all files into `folder` and print a table.

    If an input is unusable, nothing is written.

    Raises:
        MissingError: A run has no files.
        ConfigError: A run is malformed, the runs are not comparable, or the folder is not writable.
    """
    runs = read_runs(words)
    plots = draw(runs)
    texts = {"compare.json": to_json(runs), "compare.md": to_markdown(runs, list(plots))}
    files = {name: text.encode() for name, text in texts.items()} | plots
    write_files(folder, files, [name for name in PLOTS if name not in plots])
    header, rows = accuracy_table(runs)
    empty = f"; {EMPTY}" if any("" in row for row in rows) else ""
    # Intervals go on a second line, so that four benchmarks fit into 80 columns. Names may look like Rich markup.
    cells = [[escape(label), *(cell.replace(" [", "\n[") for cell in row)] for label, *row in rows]
    print_table(f"accuracy, 95 % interval{empty}", list(map(escape, header)), cells)
    different = differing_settings(runs)
    if different:
        say(f"the runs differ in {', '.join(different)}")
    say(f"{folder}: {', '.join(files)}")
