"""The plots of `compare`, as PNG files in memory.

The colours are the Okabe-Ito palette, which is safe for colour-blind readers.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from eval.runs import EvaluatedRun
from eval.series import (
    KINDS,
    Point,
    bars,
    benchmark_names,
    held_out_curves,
    kind_fractions,
    length_points,
    training_curves,
)

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#B8AD1E")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""7 markers, coprime to the 8 colours, so that pairs of colour and marker repeat only after 56 runs."""

KIND_COLOURS = {
    "correct": "#009E73",
    "wrong": "#D55E00",
    "no_answer": "#E69F00",
    "truncated": "#56B4E9",
    "failed": "#555555",
}

PLOTS = ("accuracy.png", "accuracy_tokens.png", "accuracy_seconds.png", "length_accuracy.png", "errors.png")
"""Every file that `draw` may return."""

DOTS_PER_INCH = 150

Handles = dict[str, Any]
"""Legend handles by label. `Any`, because matplotlib's containers are not typed as artists."""

Styles = dict[str, tuple[str, str]]
"""Colour and marker of each run by label, the same in every plot."""


def draw(runs: Sequence[EvaluatedRun]) -> dict[str, bytes]:
    """Draw all plots; returns PNG images by file name. Plots against tokens or seconds need a run that has them."""
    styles = {run.label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, run in enumerate(runs)}
    trained = [run.training for run in runs if run.training is not None]
    figures: dict[str, Callable[[], Figure]] = {"accuracy.png": lambda: _accuracy(runs, styles)}
    if trained:
        figures["accuracy_tokens.png"] = lambda: _against_training(runs, styles, seconds=False)
    if any(training.seconds is not None for training in trained):
        figures["accuracy_seconds.png"] = lambda: _against_training(runs, styles, seconds=True)
    figures |= {"length_accuracy.png": lambda: _lengths(runs, styles), "errors.png": lambda: _errors(runs)}
    # `parse_math` is off, or a `$` in a name would start a formula.
    with matplotlib.rc_context({"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}):
        return {name: to_png(make()) for name, make in figures.items()}


def to_png(figure: Figure) -> bytes:
    """Encode a figure as PNG."""
    buffer = io.BytesIO()
    # Without the Software field, which contains the matplotlib version and would change the file with every release.
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _panels(titles: Sequence[str], across: int = 2, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """Create a figure with one panel per title."""
    columns = min(across, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(max(5.5, 4.5 * columns), height * rows + 0.6), layout="constrained")
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(len(titles))]
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
    return figure, axes


def _legend(figure: Figure, handles: Handles) -> None:
    """Add one legend below all panels."""
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)


def _limit_accuracy(ax: Axes, points: Sequence[Point]) -> None:
    """Set the accuracy axis from 0 to just above the highest interval: from 0, so that small differences look small."""
    ax.set_ylim(0, min(1.02, 1.15 * max(max(point.ci95[1] for point in points), 0.05)))
    ax.set_ylabel("accuracy (pass@1)")
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)


def _accuracy(runs: Sequence[EvaluatedRun], styles: Styles) -> Figure:
    """Bar chart with intervals: one group per benchmark, one bar per run. A gap means that it was not evaluated."""
    groups = bars(runs)
    width = 0.8 / len(runs)
    figure = Figure(figsize=(min(24.0, max(6.0, 2 + 0.45 * len(runs) * len(groups))), 4.4), layout="constrained")
    ax = figure.add_subplot()
    handles: Handles = {}
    for place, group in enumerate(groups.values()):
        for point in group:
            if point is not None:
                at = place + (point.x + 0.5) * width - 0.4
                handle = ax.bar(at, point.accuracy, 0.9 * width, color=styles[point.label][0])
                _add_interval(ax, at, point, "#333333", "none")
                handles.setdefault(point.label, handle)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.set_title("accuracy with 95 % intervals")
    _limit_accuracy(ax, [point for group in groups.values() for point in group if point is not None])
    _legend(figure, {run.label: handles[run.label] for run in runs})
    return figure


def _add_interval(ax: Axes, x: float, point: Point, colour: str, marker: str) -> Container:
    """Draw a marker with its interval. The interval contains the mean up to rounding, hence the `max`."""
    low, high = point.ci95
    error = [[max(0.0, point.accuracy - low)], [max(0.0, high - point.accuracy)]]
    return ax.errorbar(
        [x], [point.accuracy], yerr=error, color=colour, marker=marker, markersize=7, capsize=3, linestyle="none"
    )


def _against_training(runs: Sequence[EvaluatedRun], styles: Styles, seconds: bool) -> Figure:
    """Accuracy against training cost: one panel per benchmark, and one for evaluations during training.

    Models of the same training run are connected by a line.
    """
    names = [name for name in benchmark_names(runs) if training_curves(runs, name, seconds)]
    held_out = held_out_curves(runs, seconds)
    figure, axes = _panels([*names, *(["held-out prompts of each run, during training"] if held_out else [])])
    handles: Handles = {}
    curves_of = [training_curves(runs, name, seconds) for name in names] + ([held_out] if held_out else [])
    for ax, curves in zip(axes, curves_of, strict=True):
        for curve in curves:
            ax.plot([point.x for point in curve], [point.accuracy for point in curve], color="#999999", linewidth=1)
            for point in curve:
                handles.setdefault(point.label, _add_interval(ax, point.x, point, *styles[point.label]))
        # From 0, so that distances are proportional to cost; slightly less, so that a marker at 0 is not clipped.
        highest = max(point.x for curve in curves for point in curve) or 1.0
        ax.set_xlim(-0.04 * highest, 1.08 * highest)
        ax.xaxis.set_major_formatter(EngFormatter())
        ax.set_xlabel("seconds of training steps" if seconds else "tokens trained on (prompts and responses)")
        _limit_accuracy(ax, [point for curve in curves for point in curve])
    for name, ax in zip(names, axes, strict=False):
        _add_levels(ax, name, runs, styles, handles)
    _legend(figure, {run.label: handles[run.label] for run in runs if run.label in handles})
    return figure


def _add_levels(ax: Axes, benchmark: str, runs: Sequence[EvaluatedRun], styles: Styles, handles: Handles) -> None:
    """Draw runs without a training run, such as the untrained model, as dotted horizontal lines."""
    for run in runs:
        if run.training is None and benchmark in run.results:
            accuracy = run.results[benchmark].accuracy
            line = ax.axhline(accuracy, color=styles[run.label][0], linestyle=":", linewidth=2)
            handles.setdefault(run.label, line)
            ax.set_ylim(top=max(ax.get_ylim()[1], min(1.02, 1.15 * accuracy)))


def _lengths(runs: Sequence[EvaluatedRun], styles: Styles) -> Figure:
    """Accuracy against mean response length, one panel per benchmark."""
    names = benchmark_names(runs)
    figure, axes = _panels(names)
    handles: Handles = {}
    for ax, name in zip(axes, names, strict=True):
        points = length_points(runs, name)
        for point in points:
            handles.setdefault(point.label, _add_interval(ax, point.x, point, *styles[point.label]))
        ax.margins(x=0.15)
        ax.set_xlabel("mean response length, tokens")
        _limit_accuracy(ax, points)
    _legend(figure, {run.label: handles[run.label] for run in runs})
    return figure


def _errors(runs: Sequence[EvaluatedRun]) -> Figure:
    """Stacked bars of outcomes (`KINDS`): one panel per benchmark, one bar per run."""
    names = benchmark_names(runs)
    figure, axes = _panels(names, height=0.9 + 0.4 * len(runs))
    handles: Handles = {}
    for ax, name in zip(axes, names, strict=True):
        having = [run for run in runs if name in run.results]
        left = [0.0] * len(having)
        for kind in KINDS:
            shares = [kind_fractions(run.results[name])[kind] for run in having]
            handle = ax.barh(range(len(having)), shares, 0.7, left, color=KIND_COLOURS[kind], edgecolor="white")
            handles.setdefault(kind, handle)
            left = [start + share for start, share in zip(left, shares, strict=True)]
        ax.set_yticks(range(len(having)), [run.label for run in having])
        ax.invert_yaxis()
        ax.set_xlim(0, 1)
        ax.set_xlabel("fraction of samples")
    _legend(figure, handles)
    return figure
