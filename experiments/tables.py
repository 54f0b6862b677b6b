"""Tables of experiments: accuracies and costs of variants, with bootstrap intervals over seeds and problems."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from eval.result import Result
from eval.runs import EvaluatedRun, Training
from experiments.jobs import result_path
from openr1.errors import ConfigError

RESAMPLES = 2000

Runs = dict[str, list[dict[str, Any]]]
"""Results of all seeds, by variant, in the order of the experiment."""


def read_results(results: Path, names: Mapping[str, Sequence[str]], baseline: str) -> Runs:
    """Read the results of variants; variants without any result are omitted.

    Args:
        results: Folder of the result files.
        names: Names of the runs of each variant.
        baseline: The variant that the others are compared with.

    Raises:
        ConfigError: Some seeds of a variant are missing, or all seeds of the baseline.
    """
    runs: Runs = {}
    for variant, variant_runs in names.items():
        paths = [result_path(results, name) for name in variant_runs]
        missing = [path.name for path in paths if not path.exists()]
        if len(missing) == len(paths) and variant != baseline:
            continue
        if missing:
            raise ConfigError(f"{results}: {missing[0]} is missing; run the experiment again")
        runs[variant] = [json.loads(path.read_text()) for path in paths]
    return runs


def accuracy_table(runs: Runs, benchmarks: Sequence[str], baseline: str) -> list[list[str]]:
    """Return accuracies with 95 % intervals; bold if the interval of the difference to the baseline excludes 0."""
    header = ["variant", *(benchmark_title(name) for name in benchmarks)]
    return [header, *([variant, *(_cell(runs, variant, name, baseline) for name in benchmarks)] for variant in runs)]


def _cell(runs: Runs, variant: str, benchmark: str, baseline: str) -> str:
    mean, (low, high) = mean_with_interval(correct_fractions(runs[variant], benchmark))
    text = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    if variant == baseline:
        return text
    _, (worst, best) = mean_with_interval(
        correct_fractions(runs[variant], benchmark) - correct_fractions(runs[baseline], benchmark)
    )
    return f"**{text}**" if worst > 0 or best < 0 else text


def cost_table(runs: Runs, benchmark: str) -> list[list[str]]:
    """Return mean tokens and median times over seeds, accuracies by seed, and mean response lengths."""
    header = [
        "variant",
        "generated",
        "trained",
        "training, s",
        "run, s",
        "accuracy per seed",
        "tokens per response",
    ]
    table = [header]
    for variant, seeds in runs.items():
        generated, trained = (fmean(_total(run, kind) for run in seeds) for kind in ("generated", "trained"))
        measured = [run["benchmarks"][benchmark] for run in seeds]
        table.append(
            [
                variant,
                f"{generated:,.0f}",
                f"{trained:,.0f}",
                f"{median(_total(run, 'seconds') for run in seeds):.0f}",
                f"{median(run['wall_seconds'] for run in seeds):.0f}",
                ", ".join(f"{one['accuracy']:.3f}" for one in measured),
                f"{fmean(one['response_length'] for one in measured):.0f}",
            ]
        )
    return table


def benchmark_title(name: str) -> str:
    """Return the display name of a benchmark."""
    task, _, kind = name.partition("_")
    title = {"countdown": "Countdown", "game24": "24 game"}[task]
    return title + {"": "", "larger": ", larger numbers", "four": ", four numbers"}[kind]


def _total(run: dict[str, Any], kind: str) -> float:
    return float(sum(stage[kind] for stage in run["stages"]))


def correct_fractions(seeds: Sequence[dict[str, Any]], benchmark: str) -> np.ndarray:
    """Return the fractions of correct samples [S, P] of S seeds and P problems."""
    return np.array([[shares[key] for key in sorted(shares)] for shares in _fractions_by_problem(seeds, benchmark)])


def _fractions_by_problem(seeds: Sequence[dict[str, Any]], benchmark: str) -> list[dict[str, float]]:
    return [run["benchmarks"][benchmark]["shares"] for run in seeds]


def mean_with_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the mean and its 95 % interval from a two-way bootstrap: seeds and problems are resampled independently.

    Args:
        values: [S, P] for S seeds and P problems.
    """
    rng = np.random.default_rng(0)
    num_seeds, num_problems = values.shape
    seeds = rng.integers(num_seeds, size=(RESAMPLES, num_seeds))
    problems = rng.integers(num_problems, size=(RESAMPLES, num_problems))
    means = [values[np.ix_(rows, columns)].mean() for rows, columns in zip(seeds, problems, strict=True)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), (float(low), float(high))


def pool_seeds(variant: str, seeds: Sequence[dict[str, Any]], benchmarks: Sequence[str]) -> EvaluatedRun:
    """Combine all seeds of a variant into one evaluation, for the plots."""
    results = {
        benchmark_title(name): _pool_benchmark(
            [run["benchmarks"][name] for run in seeds], correct_fractions(seeds, name)
        )
        for name in benchmarks
    }
    training = None
    if seeds[0]["stages"]:
        tokens = fmean(_total(run, "generated") + _total(run, "trained") for run in seeds)
        training = Training(variant, 0, tokens, median(_total(run, "seconds") for run in seeds), [])
    return EvaluatedRun(variant, variant, {"model": variant}, results, {}, training)


def _pool_benchmark(measured: Sequence[dict[str, Any]], shares: np.ndarray) -> Result:
    accuracy, interval = mean_with_interval(shares)
    verdicts: Counter[str] = Counter()
    for one in measured:
        verdicts.update(one["verdicts"])
    return Result(
        num_problems=shares.shape[1],
        n_samples_per_prompt=len(measured),
        accuracy=accuracy,
        ci95=interval,
        pass_at={},
        maj={},
        response_length=fmean(one["response_length"] for one in measured),
        truncated_fraction=verdicts["truncated"] / verdicts.total(),
        verdicts=dict(verdicts),
        num_failed=0,
    )
