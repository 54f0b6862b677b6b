"""What `compare` shows of runs: paired differences, kinds of endings, and the points of its plots. Plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.result import Result
from eval.runs import EvaluatedRun
from openr1.algorithms.pass_at_k import mean_with_interval

KINDS = ("correct", "wrong", "no_answer", "truncated", "failed")
"""How a sample ends: verdicts, and all those that could not be graded as one."""


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its 95 % bootstrap interval."""

    mean: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Point:
    """One run in a plot: its accuracy above `x`."""

    label: str
    x: float
    accuracy: float
    ci95: tuple[float, float]


def benchmark_names(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Every benchmark that a run has, in the order in which they come."""
    return list(dict.fromkeys(name for run in runs for name in run.results))


def difference(run: EvaluatedRun, first: EvaluatedRun, benchmark: str) -> Estimate:
    """Accuracy of `run` less that of `first`, paired by problem; both have the benchmark, with the same problems.

    The interval is of the mean over problems of the difference between their shares of right samples. It is narrower
    than those of the two accuracies suggest, as far as the same problems are hard for both.
    """
    before, after = first.shares[benchmark], run.shares[benchmark]
    return Estimate(*mean_with_interval([after[problem] - before[problem] for problem in sorted(before)]))


def kind_fractions(result: Result) -> dict[str, float]:
    """The share of each of `KINDS` in a benchmark's samples; they sum to 1."""
    total = sum(result.verdicts.values())
    graded = {kind: result.verdicts.get(kind, 0) for kind in KINDS[:-1]}
    return {kind: count / total for kind, count in graded.items()} | {"failed": 1 - sum(graded.values()) / total}


def bars(runs: Sequence[EvaluatedRun]) -> dict[str, list[Point | None]]:
    """For each benchmark a bar a run, at the run's index; None where the run lacks the benchmark."""
    return {
        name: [
            Point(run.label, index, run.results[name].accuracy, run.results[name].ci95) if name in run.results else None
            for index, run in enumerate(runs)
        ]
        for name in benchmark_names(runs)
    }


def length_points(runs: Sequence[EvaluatedRun], benchmark: str) -> list[Point]:
    """Mean response length, in tokens, and accuracy of each run that has the benchmark."""
    results = [(run.label, run.results[benchmark]) for run in runs if benchmark in run.results]
    return [Point(label, result.response_length, result.accuracy, result.ci95) for label, result in results]


def training_curves(runs: Sequence[EvaluatedRun], benchmark: str, seconds: bool) -> list[list[Point]]:
    """Accuracy against tokens or seconds of training: for each training run its evaluated models, the cheapest first.

    Runs without a training run, or without times where seconds are wanted, are left out.
    """
    curves: dict[str, list[Point]] = {}
    for run in runs:
        if run.training is None or benchmark not in run.results:
            continue
        x = run.training.seconds if seconds else run.training.tokens
        if x is not None:
            result = run.results[benchmark]
            curves.setdefault(run.training.folder, []).append(Point(run.label, x, result.accuracy, result.ci95))
    return [sorted(curve, key=lambda point: point.x) for curve in curves.values()]


def held_out_curves(runs: Sequence[EvaluatedRun], seconds: bool) -> list[list[Point]]:
    """What training runs measured on their own held-out prompts, against tokens or seconds; a curve a training run.

    A curve goes by the label of the first run that names its training run.
    """
    curves: dict[str, list[Point]] = {}
    for run in runs:
        if run.training is not None and run.training.held_out:
            curve = [
                Point(run.label, one.seconds if seconds else one.tokens, one.accuracy, one.ci95)
                for one in run.training.held_out
            ]
            curves.setdefault(run.training.folder, curve)
    return list(curves.values())
