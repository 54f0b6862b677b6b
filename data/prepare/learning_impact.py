"""Which prompts a run learned from: how close each prompt's scores, visit by visit, follow those of all prompts.

Reference: Li, Zou, Liu, LIMR: Less is More for RL Scaling, arXiv:2502.11886, learning impact measurement. The paper's
reward is 1 where a prompt is solved; here it is the score, 0 to 1, since a task's rewards may add up to more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

import yaml

from data.prepare.formats import Reading, convert_file
from data.prepare.readers import BadRows
from data.prepare.score_files import prompt_id, read_score
from openr1.console import print_table, say
from openr1.errors import ConfigError, MissingError
from openr1.files import read_objects, write_objects

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
MIN_VISITS = 2


@dataclass(frozen=True)
class Selection:
    """Prompts with an impact above `threshold`, or, where `count` is given, the `count` with the highest."""

    threshold: float = 0.6
    count: int | None = None

    def choose(self, impacts: Mapping[str, float]) -> set[str]:
        """Ids of the prompts to keep; of equal impacts, the earlier ones.

        Raises:
            ConfigError: There are fewer than `count`, or none above the threshold.
        """
        if self.count is not None:
            if self.count > len(impacts):
                raise ConfigError(f"{len(impacts)} prompts were measured, fewer than --count {self.count}")
            return set(sorted(impacts, key=lambda name: -impacts[name])[: self.count])
        chosen = {name for name, impact in impacts.items() if impact > self.threshold}
        if not chosen:
            raise ConfigError(
                f"no prompt is above --threshold {self.threshold:g}; the highest is at {max(impacts.values()):.3f}"
            )
        return chosen


def read_curves(run: Path) -> dict[str, list[float]]:
    """Mean score of each prompt at each visit, in the order of steps.

    Responses without a score do not count, nor does a visit that has no other.

    Raises:
        MissingError: The run has no rollouts.
        ConfigError: A row is no rollout.
    """
    files = sorted((run / "rollouts").glob("step_*.jsonl"))
    if not files:
        raise MissingError(f"{run}: no rollouts/step_*.jsonl there; give the folder of a run")
    curves: dict[str, list[float]] = {}
    for file in files:
        scores: dict[str, list[float]] = {}
        for place, row in read_objects(file):
            score = read_score(row, place)
            if score is not None:
                scores.setdefault(prompt_id(row, place), []).append(score)
        for name, values in scores.items():
            curves.setdefault(name, []).append(fmean(values))
    return curves


def measure_impacts(curves: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Learning impact of each prompt with two visits or more.

    s_i = 1 - sum_k (r_i^k - m^k)^2 / sum_k (1 - m^k)^2, over the visits k that prompt i had; m^k is the mean of r^k
    over the prompts that had k visits or more. At most 1, without a lower bound. Where all are solved at every visit
    (the second sum is 0) it is 1.

    Example:
        >>> measure_impacts({"a": [0.0, 1.0], "b": [1.0, 1.0]})
        {'a': 0.0, 'b': 0.0}
    """
    longest = max(map(len, curves.values()), default=0)
    means = [fmean(curve[visit] for curve in curves.values() if len(curve) > visit) for visit in range(longest)]
    impacts = {}
    for name, curve in curves.items():
        if len(curve) >= MIN_VISITS:
            apart = sum((score - mean) ** 2 for score, mean in zip(curve, means, strict=False))
            room = sum((1 - mean) ** 2 for mean in means[: len(curve)])
            impacts[name] = 1 - apart / room if room else 1.0
    return impacts


def select(run: Path, output: Path, data: Path | None, selection: Selection) -> None:
    """Write the rows of a run's training file that are worth keeping, in their order, with `meta.learning_impact`.

    Args:
        run: Folder of the run.
        output: File to write.
        data: The training file; None: the one in the run's config.yaml.
        selection: Which to keep.

    Raises:
        MissingError: A file cannot be read.
        ConfigError: Half of the prompts or more were visited fewer than two times, the training file is another run's
            or would be overwritten, or nothing is left.
    """
    curves = read_curves(run)
    if not curves or median_low([len(curve) for curve in curves.values()]) < MIN_VISITS:
        few = sum(len(curve) < MIN_VISITS for curve in curves.values())
        raise ConfigError(
            f"{run}: {few} of {len(curves)} prompts were visited fewer than {MIN_VISITS} times; train for more epochs"
        )
    path = data or _training_file(run)
    if path.resolve() == output.resolve():
        raise ConfigError(f"{output}: would be overwritten; choose another --output")
    rows = {row["id"]: row for _, row in convert_file(path, Reading("openr1"), BadRows(skip=False))}
    strange = next((name for name in curves if name not in rows), None)
    if strange is not None:
        raise ConfigError(f"{path}: has no prompt {strange!r}, which the run was trained on; give its file with --data")
    measured = measure_impacts(curves)
    impacts = {name: measured[name] for name in rows if name in measured}
    chosen = selection.choose(impacts)
    write_objects(output, _with_impacts(rows, impacts, chosen))
    _show(impacts)
    say(f"{output}: {len(chosen)} of {len(rows)} rows; {len(rows) - len(impacts)} without {MIN_VISITS} visits left out")


def _with_impacts(
    rows: Mapping[str, dict[str, Any]], impacts: Mapping[str, float], chosen: set[str]
) -> Iterator[dict[str, Any]]:
    for name, row in rows.items():
        if name in chosen:
            yield {**row, "meta": {**row.get("meta", {}), "learning_impact": impacts[name]}}


def _training_file(run: Path) -> Path:
    config = run / "config.yaml"
    try:
        return Path(yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["train"])
    except OSError as error:
        raise MissingError(f"{config}: {error.strerror}; name the training file with --data") from error
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: names no data.train; name the training file with --data") from error


def _show(impacts: Mapping[str, float]) -> None:
    """Print quantiles; each is the value of a prompt, the nearest."""
    ordered = sorted(impacts.values())
    rows = [(f"{quantile:.0%}", f"{ordered[round(quantile * (len(ordered) - 1))]:.3f}") for quantile in QUANTILES]
    print_table(f"learning impact of {len(ordered)} prompts", ("quantile", "impact"), rows)
