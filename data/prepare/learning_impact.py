"""Select the prompts of a run by learning impact: how closely a prompt's scores follow the mean scores of all prompts.

Reference: Li, Zou, Liu, LIMR: Less is More for RL Scaling, arXiv:2502.11886, learning impact measurement. The paper
uses a reward of 1 for a solved prompt; this module uses the score (0 to 1), because rewards of a task may sum to more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

import yaml

from data.prepare.formats import ReadOptions, convert_file
from data.prepare.readers import BadRowHandler
from data.prepare.score_files import prompt_id, read_score
from openr1.data.rollout_files import rollout_files
from openr1.errors import ConfigError, MissingError
from openr1.runtime.console import print_table, say
from openr1.runtime.files import read_objects, write_objects

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
MIN_VISITS = 2


@dataclass(frozen=True)
class Selection:
    """Selection rule: prompts with an impact above `threshold` or, if `count` is given, the `count` highest."""

    threshold: float = 0.6
    count: int | None = None

    def choose(self, impacts: Mapping[str, float]) -> set[str]:
        """Return the ids of the prompts to keep; ties are resolved in favour of earlier prompts.

        Raises:
            ConfigError: There are fewer than `count` prompts, or none is above the threshold.
        """
        if self.count is not None:
            if self.count > len(impacts):
                raise ConfigError(f"{len(impacts)} prompts have an impact, fewer than --count {self.count}")
            return set(sorted(impacts, key=lambda name: -impacts[name])[: self.count])
        chosen = {name for name, impact in impacts.items() if impact > self.threshold}
        if not chosen:
            raise ConfigError(
                f"no prompt is above --threshold {self.threshold:g}; the highest impact is {max(impacts.values()):.3f}"
            )
        return chosen


def read_score_curves(run: Path) -> dict[str, list[float]]:
    """Return the mean score of each prompt at each of its visits, in the order of training steps.

    Responses without a score do not count; a visit without any scored response is ignored.

    Raises:
        MissingError: The run has no rollouts.
        ConfigError: A row is not a rollout.
    """
    files = [path for _, path in rollout_files(run)]
    if not files:
        raise MissingError(f"{run}: contains no rollouts/step_*.jsonl; expected the folder of a run")
    curves: dict[str, list[float]] = {}
    for file in files:
        scores: dict[str, list[float]] = {}
        for location, row in read_objects(file):
            score = read_score(row, location)
            if score is not None:
                scores.setdefault(prompt_id(row, location), []).append(score)
        for name, values in scores.items():
            curves.setdefault(name, []).append(fmean(values))
    return curves


def compute_impacts(curves: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the learning impact of each prompt with two visits or more.

    s_i = 1 - sum_k (r_i^k - m^k)^2 / sum_k (1 - m^k)^2, summed over the visits k of prompt i, where m^k is the mean of
    r^k over the prompts with at least k visits. The impact is at most 1 and has no lower bound. It is defined as 1 if
    every prompt is solved at every visit (the denominator is 0).

    Example:
        >>> compute_impacts({"a": [0.0, 1.0], "b": [1.0, 1.0]})
        {'a': 0.0, 'b': 0.0}
    """
    longest = max(map(len, curves.values()), default=0)
    means = [fmean(curve[visit] for curve in curves.values() if len(curve) > visit) for visit in range(longest)]
    impacts = {}
    for name, curve in curves.items():
        if len(curve) >= MIN_VISITS:
            squared_error = sum((score - mean) ** 2 for score, mean in zip(curve, means, strict=False))
            normalizer = sum((1 - mean) ** 2 for mean in means[: len(curve)])
            impacts[name] = 1 - squared_error / normalizer if normalizer else 1.0
    return impacts


def select(run: Path, output: Path, data: Path | None, selection: Selection) -> None:
    """Write the selected rows of a run's training file, in their original order, with `meta.learning_impact` added.

    Args:
        run: Folder of the run.
        output: File to write.
        data: The training file; None uses the one named in the run's config.yaml.
        selection: Which prompts to keep.

    Raises:
        MissingError: A file cannot be read.
        ConfigError: Half of the prompts or more have fewer than two visits, the training file does not belong to the
            run or would be overwritten, or no prompt is selected.
    """
    curves = read_score_curves(run)
    if not curves or median_low([len(curve) for curve in curves.values()]) < MIN_VISITS:
        too_few = sum(len(curve) < MIN_VISITS for curve in curves.values())
        raise ConfigError(
            f"{run}: {too_few} of {len(curves)} prompts were visited fewer than {MIN_VISITS} times; "
            "train for more epochs"
        )
    path = data or _find_training_file(run)
    if path.resolve() == output.resolve():
        raise ConfigError(f"{output}: would be overwritten; choose another --output")
    rows = {row["id"]: row for _, row in convert_file(path, ReadOptions("openr1"), BadRowHandler(skip=False))}
    unknown = next((name for name in curves if name not in rows), None)
    if unknown is not None:
        raise ConfigError(
            f"{path}: does not contain prompt {unknown!r} of the run; name the run's training file with --data"
        )
    all_impacts = compute_impacts(curves)
    # In the order of the training file, which decides ties.
    impacts = {name: all_impacts[name] for name in rows if name in all_impacts}
    chosen = selection.choose(impacts)
    write_objects(output, _with_impacts(rows, impacts, chosen))
    _print_quantiles(impacts)
    say(
        f"{output}: {len(chosen)} of {len(rows)} rows; "
        f"{len(rows) - len(impacts)} prompts with fewer than {MIN_VISITS} visits were excluded"
    )


def _with_impacts(
    rows: Mapping[str, dict[str, Any]], impacts: Mapping[str, float], chosen: set[str]
) -> Iterator[dict[str, Any]]:
    for name, row in rows.items():
        if name in chosen:
            yield {**row, "meta": {**row.get("meta", {}), "learning_impact": impacts[name]}}


def _find_training_file(run: Path) -> Path:
    config = run / "config.yaml"
    try:
        return Path(yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["train"])
    except OSError as error:
        raise MissingError(f"{config}: {error.strerror}; name the training file with --data") from error
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: has no data.train; name the training file with --data") from error


def _print_quantiles(impacts: Mapping[str, float]) -> None:
    """Print quantiles by nearest rank, without interpolation."""
    ordered = sorted(impacts.values())
    rows = [(f"{quantile:.0%}", f"{ordered[round(quantile * (len(ordered) - 1))]:.3f}") for quantile in QUANTILES]
    print_table(f"learning impact of {len(ordered)} prompts", ("quantile", "impact"), rows)
