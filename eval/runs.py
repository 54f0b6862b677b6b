"""What `compare` reads: folders of evaluations, and of the training runs that the models came from."""

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
"""The share of right samples of each problem, in [0, 1], by the problem's id and label."""

UNTIMED_TOKENS = ("sft/tokens", "dpo/tokens")
"""Tokens of a step in runs that write no times."""


@dataclass(frozen=True)
class Place:
    """Where one run is: the folder of its evaluation, and that of its training, if one is given."""

    label: str
    folder: Path
    training: Path | None


@dataclass(frozen=True)
class HeldOut:
    """Accuracy that a training run measured on its own held-out prompts, with what training had taken until then."""

    step: int
    tokens: float
    seconds: float
    accuracy: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Training:
    """What a model took to train.

    Attributes:
        folder: Of the training run.
        steps: Up to the evaluated model.
        tokens: Prompt and response tokens of these steps.
        seconds: Sum of their `time/step_seconds`, without evaluation and checkpoints; None for `sft` and `dpo`, which
            write no times.
        held_out: Of the whole run, by step; empty where it measured none.
    """

    folder: str
    steps: int
    tokens: float
    seconds: float | None
    held_out: list[HeldOut]


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluation; `results` and `shares` go by benchmark."""

    label: str
    folder: str
    settings: dict[str, str | int | float]
    results: dict[str, Result]
    shares: dict[str, Shares]
    training: Training | None


@dataclass(frozen=True)
class _ResultsFile:
    """results.json."""

    settings: dict[str, str | int | float]
    results: dict[str, Result]


def parse_place(word: str) -> Place:
    """Read `[label=]FOLDER[:TRAINING_FOLDER]`; without a label the folder's name is it.

    Raises:
        ConfigError: The label or a folder is empty.
    """
    before, equals, after = word.partition("=")
    folder, colon, training = (after if equals else word).partition(":")
    label = before if equals else Path(folder).resolve().name
    if not label or not folder or (colon and not training):
        raise ConfigError(f"run {word!r}: give FOLDER, label=FOLDER or label=FOLDER:TRAINING_FOLDER")
    return Place(label, Path(folder), Path(training) if colon else None)


def read_run(place: Place) -> EvaluatedRun:
    """Read an evaluation that is complete, and its training.

    Raises:
        MissingError: A file is not there.
        ConfigError: A file cannot be understood, or samples and results do not belong together.
    """
    path = place.folder / "results.json"
    if not path.is_file():
        raise MissingError(f"{path}: no such file; `python -m cli eval` writes it when all samples are there")
    try:
        content = TypeAdapter(_ResultsFile).validate_json(path.read_bytes())
    except ValidationError as error:
        raise _unusable(str(path), error) from error
    if not content.results or "model" not in content.settings:
        raise ConfigError(f"{path}: names no benchmark or no model; evaluate again")
    samples = place.folder / "samples"
    shares = {name: _read_shares(samples / f"{name}.jsonl", result) for name, result in content.results.items()}
    training = None
    if place.training is not None:
        training = read_training(place.training, str(content.settings["model"]))
    return EvaluatedRun(place.label, str(place.folder), content.settings, content.results, shares, training)


def _read_shares(path: Path, result: Result) -> Shares:
    """Sum up the samples of a benchmark by problem; there must be as many as its result says."""
    if not path.is_file():
        raise MissingError(f"{path}: no such file, but results.json has its result; evaluate again")
    adapter = TypeAdapter(Sample)
    right: dict[tuple[str, str], list[bool]] = {}
    for place, row in read_objects(path):
        try:
            sample = adapter.validate_python(row)
        except ValidationError as error:
            raise _unusable(place, error) from error
        right.setdefault((sample.id, sample.label), []).append(sample.score == 1.0)
    problems, size = result.num_problems, result.n_samples_per_prompt
    graded = sum(result.verdicts.values())
    whole = len(right) == problems and all(len(flags) == size for flags in right.values())
    if not whole or graded != problems * size or graded == 0:
        raise ConfigError(f"{path}: not the {problems} problems x {size} samples of results.json; evaluate again")
    return {problem: sum(flags) / size for problem, flags in right.items()}


def _unusable(place: str, error: ValidationError) -> ConfigError:
    problems = describe_problems([dict(problem) for problem in error.errors()])
    return ConfigError(f"{place}: {problems}; evaluate again")


def read_training(folder: Path, model: str) -> Training:
    """What the training run in `folder` took up to the model, and what it measured on its way.

    Args:
        folder: Of a `train`, `sft` or `dpo` run, with metrics.jsonl.
        model: Path of the evaluated model. With a part `step_NNNNNN`, as checkpoints have, the steps up to that one
            count; else all.

    Raises:
        MissingError: There is no metrics.jsonl.
        ConfigError: It cannot be understood, or ends before the model's step.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise MissingError(f"{path}: no such file; a training run's folder has one")
    try:
        rows: list[Any] = read_metrics(path)
        taken = {int(row["step"]): _taken(row) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not the metrics of `train`, `sft` or `dpo`: {error!r}") from error
    if not taken:
        raise ConfigError(f"{path}: no step is complete; leave this training run out")
    numbers = [int(found[1]) for part in Path(model).parts if (found := re.fullmatch(r"step_(\d+)", part))]
    last = numbers[-1] if numbers else max(taken)
    if last not in taken:
        raise ConfigError(f"{path}: has no step {last}, where the model {model} is from; give its own training run")
    # Step 0 is the model before training.
    steps = [0, *taken]
    tokens = dict(zip(steps, accumulate((took[0] for took in taken.values()), initial=0.0), strict=True))
    seconds = dict(zip(steps, accumulate((took[1] or 0.0 for took in taken.values()), initial=0.0), strict=True))
    timed = all(took[1] is not None for took in taken.values())
    held_out = [
        HeldOut(step, tokens[step], seconds[step], measured.accuracy, measured.ci95)
        for step, measured in _read_held_out(folder).items()
        # A run that was resumed from before a measurement may still have its file.
        if step in tokens
    ]
    return Training(str(folder), last, tokens[last], seconds[last] if timed else None, held_out)


def _taken(row: dict[str, Any]) -> tuple[float, float | None]:
    """Tokens of a step, and its seconds if they are known."""
    for name in UNTIMED_TOKENS:
        if name in row:
            return float(row[name]), None
    seconds = float(row["time/step_seconds"])
    return float(row["throughput/tokens_per_second"]) * seconds, seconds


def _read_held_out(folder: Path) -> dict[int, EvalResult]:
    """The sampled accuracy in each file of eval/, by step."""
    measured = {}
    for path in sorted(folder.glob("eval/step_[0-9]*.json")):
        try:
            content = TypeAdapter(dict[str, EvalResult]).validate_json(path.read_bytes())
        except ValidationError as error:
            raise _unusable(str(path), error) from error
        measured[int(path.stem.removeprefix("step_"))] = content["sampled"]
    return measured
