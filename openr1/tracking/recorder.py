"""What a run writes per step: metrics.jsonl, one object per step, and rollouts/step_NNNNNN.jsonl, one per response."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openr1.rollout.experience import Experience
from openr1.runtime.files import read_objects, to_line, write_objects
from openr1.tracking.eval_results import eval_path, read_eval_results
from openr1.types import ScoredGroup


class RunRecorder:
    """Writes into a run folder; every line is flushed, so that a killed run keeps its steps."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the run's; nothing is written yet."""
        self._rollouts = folder / "rollouts"
        self._evaluations = folder / "eval"
        self._path = folder / "metrics.jsonl"

    def forget_after(self, step: int) -> None:
        """Remove what an earlier process wrote about the steps after `step`: they will be made again."""
        kept = [row for row in read_metrics(self._path) if row["step"] <= step]
        write_objects(self._path, kept)
        for path in (*self._rollouts.glob("step_*.jsonl"), *self._evaluations.glob("step_*.json")):
            if int(path.stem.removeprefix("step_")) > step:
                path.unlink()

    def record_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a step to metrics.jsonl."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(to_line({"step": step, **metrics}))

    def add_to_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to the row of the last step, replacing the file as a whole."""
        *others, last = read_metrics(self._path)
        assert last["step"] == step
        write_objects(self._path, [*others, last | dict(metrics)])

    def record_rollouts(self, step: int, rows: Iterable[Mapping[str, object]]) -> None:
        """Write a step's responses (`rollout_rows`)."""
        write_objects(self._rollouts / f"step_{step:06d}.jsonl", rows)


def recorded_steps(folder: Path, after: int) -> Iterator[tuple[int, dict[str, float], Iterator[dict[str, Any]]]]:
    """The steps of a run folder after one: metrics, with the accuracy of an evaluation at that step, and responses.

    Response files are opened when they are read; a missing file has no responses.
    """
    for row in read_metrics(folder / "metrics.jsonl"):
        step = int(row.pop("step"))
        if step > after:
            results, responses = read_eval_results(eval_path(folder, step)), folder / f"rollouts/step_{step:06d}.jsonl"
            if results:
                row["eval/accuracy"] = results["sampled"].accuracy
            yield step, row, (one for _, one in read_objects(responses)) if responses.exists() else iter(())


def rollout_rows(experience: Experience) -> Iterator[dict[str, object]]:
    """One row per response: prompt, response, grade, and how it trained; null where it did not."""
    assert experience.advantages is not None
    shaped, advantages = experience.penalized_rewards.tolist(), experience.advantages.tolist()
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
    """The rows of a metrics.jsonl; none where there is no file. A last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
