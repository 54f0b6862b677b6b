"""Input of `compare`: folders of evaluations, and of the training runs that produced the models."""

import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eval.result import Result
from eval.samples import Sample
from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import read_objects
from openr1.tracking.eval_results import EvalResult
from openr1.tracking.recorder import read_metrics
from reward_server.schema import describe_problems

Shares = dict[tuple[str, str], float]
"""Fraction of correct samples per problem, in [0, 1], by the problem's id and label."""

UNTIMED_TOKENS = ("sft/tokens", "dpo/tokens")
"""Metrics with the number of tokens of a step, in runs that record no times."""


@dataclass(frozen=True)
class RunPath:
    """Paths of one run: the folder of its evaluation, and optionally that of its training run."""

    label: str
    folder: Path
    training: Path | None


@dataclass(frozen=True)
class HeldOut:
    """Held-out accuracy that was measured during a training run, with the tokens and seconds spent until then."""

    step: int
    tokens: float
    seconds: float
    accuracy: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Training:
    """Training cost of a model.

    Attributes:
        folder: Folder of the training run.
        steps: Number of steps up to the evaluated model.
        tokens: Prompt and response tokens of these steps.
        seconds: Sum of their `time/step_seconds`, without evaluation and checkpoints; None for `sft` and `dpo`, which
            record no times.
        held_out: Held-out evaluations of the whole run, by step; empty if there were none.
    """

    folder: str
    steps: int
    tokens: float
    seconds: float | None
    held_out: list[HeldOut]


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluated model. `results` and `shares` are keyed by benchmark."""

    label: str
    folder: str
    settings: dict[str, str | int | float]
    results: dict[str, Result]
    shares: dict[str, Shares]
    training: Training | None


@dataclass(frozen=True)
class _ResultsFile:
    """Contents of results.json."""

    settings: dict[str, str | int | float]
    results: dict[str, Result]


def parse_run_path(word: str) -> RunPath:
    """Parse `[label=]FOLDER[:TRAINING_FOLDER]`. The label defaults to the folder name.

    Raises:
        ConfigError: The label or a folder is empty.
    """
    before, equals, after = word.partition("=")
    folder, colon, training = (after if equals else word).partition(":")
    label = before if equals else Path(folder).resolve().name
    if not label or not folder or (colon and not training):
        raise ConfigError(f"run {word!r}: give FOLDER, label=FOLDER or label=FOLDER:TRAINING_FOLDER")
    return RunPath(label, Path(folder), Path(training) if colon else None)


def read_run(run_path: RunPath) -> EvaluatedRun:
    """Read a complete evaluation and the costs of its training run.

    Raises:
        MissingError: A file does not exist.
        ConfigError: A file is malformed, or samples and results do not match.
    """
    path = run_path.folder / "results.json"
    if not path.is_file():
        raise MissingError(f"{path}: no such file; `python -m cli eval` writes it once all samples are complete")
    try:
        content = TypeAdapter(_ResultsFile).validate_json(path.read_bytes())
    except ValidationError as error:
        raise _unusable(str(path), error) from error
    if not content.results or "model" not in content.settings:
        raise ConfigError(f"{path}: names no benchmark or no model; evaluate again")
    samples = run_path.folder / "samples"
    shares = {name: _read_shares(samples / f"{name}.jsonl", result) for name, result in content.results.items()}
    training = None
    if run_path.training is not None:
        training = read_training(run_path.training, str(content.settings["model"]))
    return EvaluatedRun(run_path.label, str(run_path.folder), content.settings, content.results, shares, training)


def _read_shares(path: Path, result: Result) -> Shares:
    """Compute the fraction of correct samples per problem. The number of samples must match the result."""
    if not path.is_file():
        raise MissingError(f"{path}: no such file, but results.json has its result; evaluate again")
    adapter = TypeAdapter(Sample)
    right: dict[tuple[str, str], list[bool]] = {}
    for location, row in read_objects(path):
        try:
            sample = adapter.validate_python(row)
        except ValidationError as error:
            raise _unusable(location, error) from error
        right.setdefault((sample.id, sample.label), []).append(sample.score == 1.0)
    problems, size = result.num_problems, result.n_samples_per_prompt
    graded = sum(result.verdicts.values())
    whole = len(right) == problems and all(len(flags) == size for flags in right.values())
    if not whole or graded != problems * size or graded == 0:
        raise ConfigError(f"{path}: not the {problems} problems x {size} samples of results.json; evaluate again")
    return {problem: sum(flags) / size for problem, flags in right.items()}


def _unusable(location: str, error: ValidationError) -> ConfigError:
    problems = describe_problems([dict(problem) for problem in error.errors()])
    return ConfigError(f"{location}: {problems}; evaluate again")


def read_training(folder: Path, model: str) -> Training:
    """Read the cost of the training run in `folder` up to the model, and its held-out evaluations.

    Args:
        folder: Folder of a `train`, `sft` or `dpo` run.
        model: Path of the evaluated model. If it has a component `step_NNNNNN`, as checkpoints do, only the steps up to
            that one count; otherwise all.

    Raises:
        MissingError: The folder has no metrics.jsonl.
        ConfigError: metrics.jsonl is malformed, or ends before the model's step.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise MissingError(f"{path}: no such file; a training run's folder has one")
    try:
        rows: list[Any] = read_metrics(path)
        costs = {int(row["step"]): _read_cost(row) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not the metrics of `train`, `sft` or `dpo`: {error!r}") from error
    if not costs:
        raise ConfigError(f"{path}: no step is complete; leave this training run out")
    numbers = [int(found[1]) for part in Path(model).parts if (found := re.fullmatch(r"step_(\d+)", part))]
    last = numbers[-1] if numbers else max(costs)
    if last not in costs:
        raise ConfigError(f"{path}: no step {last}, at which the model {model} was saved; give its own training run")
    # Step 0 is the model before training.
    steps = [0, *costs]
    tokens = dict(zip(steps, accumulate((cost[0] for cost in costs.values()), initial=0.0), strict=True))
    seconds = dict(zip(steps, accumulate((cost[1] or 0.0 for cost in costs.values()), initial=0.0), strict=True))
    timed = all(cost[1] is not None for cost in costs.values())
    held_out = [
        HeldOut(step, tokens[step], seconds[step], measured.accuracy, measured.ci95)
        for step, measured in _read_held_out(folder).items()
        # A run that was resumed from an earlier checkpoint may still have files of later evaluations.
        if step in tokens
    ]
    return Training(str(folder), last, tokens[last], seconds[last] if timed else None, held_out)


def _read_cost(row: dict[str, Any]) -> tuple[float, float | None]:
    """Tokens of a step, and its seconds if they were recorded."""
    for name in UNTIMED_TOKENS:
        if name in row:
            return float(row[name]), None
    seconds = float(row["time/step_seconds"])
    return float(row["throughput/tokens_per_second"]) * seconds, seconds


def _read_held_out(folder: Path) -> dict[int, EvalResult]:
    """Read the `sampled` result from each file in eval/, by step."""
    measured = {}
    for path in sorted(folder.glob("eval/step_[0-9]*.json")):
        try:
            content = TypeAdapter(dict[str, EvalResult]).validate_json(path.read_bytes())
        except ValidationError as error:
            raise _unusable(str(path), error) from error
        measured[int(path.stem.removeprefix("step_"))] = content["sampled"]
    return measured
