"""Numbers shown by `compare`: paired differences, fractions of outcomes, and the points of the plots."""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.result import Result
from eval.runs import EvaluatedRun
from openr1.algorithms.pass_at_k import mean_with_interval

KINDS = ("correct", "wrong", "no_answer", "truncated", "failed")
"""Outcomes of a sample: verdicts, with all verdicts of samples that could not be graded combined into `failed`."""


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its 95 % bootstrap interval."""

    mean: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Point:
    """One run in a plot: its accuracy at `x`."""

    label: str
    x: float
    accuracy: float
    ci95: tuple[float, float]


def benchmark_names(runs: Sequence[EvaluatedRun]) -> list[str]:
    """All benchmarks of the runs, in order of first occurrence."""
    return list(dict.fromkeys(name for run in runs for name in run.results))


def difference(run: EvaluatedRun, first: EvaluatedRun, benchmark: str) -> Estimate:
    """Accuracy of `run` minus that of `first`, paired by problem. Both must have the same problems.

    The interval is that of the mean over problems of the difference between the two fractions of correct samples. It is
    narrower than the intervals of the two accuracies suggest if the same problems are hard for both runs.
    """
    before, after = first.shares[benchmark], run.shares[benchmark]
    return Estimate(*mean_with_interval([after[problem] - before[problem] for problem in sorted(before)]))


def kind_fractions(result: Result) -> dict[str, float]:
    """Fraction of a benchmark's samples with each outcome of `KINDS`; they sum to 1."""
    total = sum(result.verdicts.values())
    graded = {kind: result.verdicts.get(kind, 0) for kind in KINDS[:-1]}
    return {kind: count / total for kind, count in graded.items()} | {"failed": 1 - sum(graded.values()) / total}


def bars(runs: Sequence[EvaluatedRun]) -> dict[str, list[Point | None]]:
    """Bars by benchmark: one per run, at the run's index, or None if the run lacks the benchmark."""
    return {
        name: [
            Point(run.label, index, run.results[name].accuracy, run.results[name].ci95) if name in run.results else None
            for index, run in enumerate(runs)
        ]
        for name in benchmark_names(runs)
    }


def length_points(runs: Sequence[EvaluatedRun], benchmark: str) -> list[Point]:
    """Mean response length (tokens) and accuracy of each run that has the benchmark."""
    results = [(run.label, run.results[benchmark]) for run in runs if benchmark in run.results]
    return [Point(label, result.response_length, result.accuracy, result.ci95) for label, result in results]


def training_curves(runs: Sequence[EvaluatedRun], benchmark: str, seconds: bool) -> list[list[Point]]:
    """Accuracy against training tokens or seconds: one curve per training run, its models in order of cost.

    Runs without a training run are omitted, and so are runs without recorded times if `seconds` is True.
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
    """Held-out accuracy during training against tokens or seconds: one curve per training run.

    A curve is labelled by the first run that refers to its training run.
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
