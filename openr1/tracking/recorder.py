"""The records of a run: metrics.jsonl, with one row per step, and rollouts/step_NNNNNN.jsonl, one row per response."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from openr1.config.sections import TrackingConfig
from openr1.data.rollout_files import find_rollouts, rollout_files, rollout_path
from openr1.rollout.experience import Experience
from openr1.runtime.files import named, read_objects, step_paths, to_line, write_objects
from openr1.tracking.eval_results import eval_path, read_eval_results
from openr1.types import ScoredGroup


class RunRecorder:
    """Writes into a run folder. Every row is flushed at once, so that a killed run keeps its steps."""

    def __init__(self, folder: Path, tracking: TrackingConfig) -> None:
        """Write into the run folder `folder`. Nothing is created yet."""
        self._folder = folder
        self._tracking = tracking
        self._path = folder / "metrics.jsonl"

    def forget_after(self, step: int) -> None:
        """Remove the records of steps after `step`, which a resumed run will repeat."""
        kept = [row for row in read_metrics(self._path) if row["step"] <= step]
        write_objects(self._path, map(_standard, kept))
        for made, path in (*rollout_files(self._folder), *step_paths(self._folder / "eval", ".json")):
            if made > step:
                path.unlink()

    def record_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step to metrics.jsonl; all of its row or, on a full disk, none of it."""
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with named(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(to_line(_standard({"step": step, **metrics})))
        except OSError:
            with suppress(OSError):
                os.truncate(self._path, size)  # The next row would stand on the line of half a row.
            raise

    def add_to_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to the row of `step`, the last one; the file is replaced atomically.

        The row is created if it is missing, since a power failure may truncate a file that was appended to.
        """
        rows = read_metrics(self._path)
        last = rows.pop() if rows and rows[-1]["step"] == step else {"step": step}
        write_objects(self._path, map(_standard, [*rows, last | dict(metrics)]))

    def record_rollouts(self, step: int, rows: Iterable[Mapping[str, object]]) -> None:
        """Write the responses of a step (`rollout_rows`)."""
        write_objects(rollout_path(self._folder, step, self._tracking.compress_rollouts), rows)

    def prune_rollouts(self, is_needed: Callable[[int, int], bool]) -> None:
        """Remove the responses of all but the newest `tracking.keep_rollouts` steps.

        `is_needed` says of a step, and the newest one, whether it is kept nevertheless.
        """
        keep = self._tracking.keep_rollouts
        if keep is None:
            return
        files = rollout_files(self._folder)
        for step, path in files[:-keep]:
            if not is_needed(step, files[-1][0]):
                path.unlink()


def recorded_steps(folder: Path, after: int) -> Iterator[tuple[int, dict[str, float], Iterator[dict[str, Any]]]]:
    """Yield (step, metrics, rows of responses) for each step in a run folder after step `after`.

    Metrics include the accuracy of an evaluation at that step, if there was one. Files of responses are read lazily; a
    missing file yields no rows.
    """
    for row in read_metrics(folder / "metrics.jsonl"):
        step = int(row.pop("step"))
        if step > after:
            results, responses = read_eval_results(eval_path(folder, step)), find_rollouts(folder, step)
            if results:
                row["eval/accuracy"] = results["sampled"].accuracy
            yield step, row, iter(()) if responses is None else (one for _, one in read_objects(responses))


def rollout_rows(experience: Experience) -> Iterator[dict[str, object]]:
    """Yield one row per response: prompt, response, grade, shaped reward and advantage.

    The last two are null for responses that were not trained on: ungraded ones and those of dropped groups have no
    shaped reward, and those of dropped groups have no advantage.
    """
    assert experience.advantages is not None
    shaped, advantages = experience.shaped_rewards.tolist(), experience.advantages.tolist()
    for scored, group_rewards, group_advantages in zip(experience.scored, shaped, advantages, strict=True):
        yield from _group_rows(scored, group_rewards, group_advantages)
    for scored in experience.dropped:
        unused = [None] * len(scored.grades)
        yield from _group_rows(scored, unused, unused)


def _group_rows(
    scored: ScoredGroup, shaped: list[float] | list[None], advantages: list[float] | list[None]
) -> Iterator[dict[str, object]]:
    group, prompt = scored.group, scored.group.prompt
    for index, (response, grade) in enumerate(zip(group.responses, scored.grades, strict=True)):
        yield {
            "id": group.ids[index],
            "task": prompt.task,
            "prompt": prompt.text,
            "prefix": prompt.prefix,
            "label": prompt.label,
            "response": response.text,
            "finish_reason": response.finish_reason,
            "num_tokens": response.num_tokens,
            "weight_version": response.weight_version,
            "newest_weight_version": response.newest_weight_version,
            "score": grade.score,
            "reward": grade.reward,
            "components": grade.components,
            "verdict": grade.verdict,
            "error": grade.error,
            "shaped_reward": shaped[index] if grade.valid else None,
            "advantage": advantages[index],
        }


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the rows of a metrics.jsonl; empty if the file does not exist. An incomplete last line is ignored.

    null, which stands for a value that was not finite, is read as NaN.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [dict(json.loads(line)) for line in lines[:-1] if line]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def _standard(row: Mapping[str, float]) -> dict[str, float | None]:
    """The row with null for what is not finite: JSON has no NaN, and strict readers refuse the whole line."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}
