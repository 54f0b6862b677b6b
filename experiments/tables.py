"""Tables and plots of experiments: accuracies of variants over benchmarks, with intervals over seeds and problems."""

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
"""Results of the seeds, by variant; the variants in the order of the experiment."""


def read_results(results: Path, names: Mapping[str, Sequence[str]], rival: str) -> Runs:
    """The results of variants whose runs have these names; variants of which none was made yet are left out.

    Raises:
        ConfigError: Some seeds of a variant are missing, or all of the rival, which the others are compared with.
    """
    runs: Runs = {}
    for variant, variant_runs in names.items():
        paths = [result_path(results, name) for name in variant_runs]
        missing = [path.name for path in paths if not path.exists()]
        if len(missing) == len(paths) and variant != rival:
            continue
        if missing:
            raise ConfigError(f"{results}: {missing[0]} is missing; start the experiment again")
        runs[variant] = [json.loads(path.read_text()) for path in paths]
    return runs


def accuracy_table(runs: Runs, benchmarks: Sequence[str], rival: str) -> list[list[str]]:
    """Accuracies with intervals, in bold where the difference to the rival is more than chance explains."""
    header = ["variant", *(benchmark_title(name) for name in benchmarks)]
    return [header, *([variant, *(_cell(runs, variant, name, rival) for name in benchmarks)] for variant in runs)]


def _cell(runs: Runs, variant: str, benchmark: str, rival: str) -> str:
    mean, (low, high) = mean_with_interval(shares_of(runs[variant], benchmark))
    text = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    if variant == rival:
        return text
    _, (worst, best) = mean_with_interval(shares_of(runs[variant], benchmark) - shares_of(runs[rival], benchmark))
    return f"**{text}**" if worst > 0 or best < 0 else text


def cost_table(runs: Runs, benchmark: str) -> list[list[str]]:
    """What each variant took: means over seeds of tokens, medians of times; and how long its responses are."""
    header = [
        "variant",
        "generated",
        "trained",
        "training, s",
        "run, s",
        "accuracies of the seeds",
        "tokens a response",
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
    """A benchmark as a reader sees it."""
    task, _, kind = name.partition("_")
    title = {"countdown": "Countdown", "game24": "24 game"}[task]
    return title + {"": "", "larger": ", larger numbers", "four": ", four numbers"}[kind]


def _total(run: dict[str, Any], kind: str) -> float:
    return float(sum(stage[kind] for stage in run["stages"]))


def shares_of(seeds: Sequence[dict[str, Any]], benchmark: str) -> np.ndarray:
    """Shares of right samples [S, P]: a row a seed, a column a problem."""
    return np.array([[shares[key] for key in sorted(shares)] for shares in _all_shares(seeds, benchmark)])


def _all_shares(seeds: Sequence[dict[str, Any]], benchmark: str) -> list[dict[str, float]]:
    return [run["benchmarks"][benchmark]["shares"] for run in seeds]


def mean_with_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Mean, and its 95 % interval from a bootstrap at two levels: seeds and problems are drawn again, independently.

    Args:
        values: [S, P], of seeds and problems.
    """
    rng = np.random.default_rng(0)
    num_seeds, num_problems = values.shape
    seeds = rng.integers(num_seeds, size=(RESAMPLES, num_seeds))
    problems = rng.integers(num_problems, size=(RESAMPLES, num_problems))
    means = [values[np.ix_(rows, columns)].mean() for rows, columns in zip(seeds, problems, strict=True)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), (float(low), float(high))


def pool(variant: str, seeds: Sequence[dict[str, Any]], benchmarks: Sequence[str]) -> EvaluatedRun:
    """All seeds of a variant as one evaluation, for the plots."""
    results = {
        benchmark_title(name): _pool_benchmark([run["benchmarks"][name] for run in seeds], shares_of(seeds, name))
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
