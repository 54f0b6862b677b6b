"""What a run writes down: metrics.jsonl, one object a step, and rollouts/step_NNNNNN.jsonl, one object a response."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from openr1.runtime.files import read_objects, to_line, write_objects
from openr1.training.evaluation import read_measurements
from openr1.training.trainer import StepRecord


class Tracker:
    """Writes into a run folder; every line is flushed, so that a killed run keeps what it did."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the run's; nothing is written yet."""
        self._rollouts = folder / "rollouts"
        self._measured = folder / "eval"
        self._path = folder / "metrics.jsonl"

    def forget_after(self, step: int) -> None:
        """Prepare for the steps after `step`: what an earlier process wrote of them will be made again."""
        self._rollouts.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(self._path) if row["step"] <= step]
        write_objects(self._path, kept)
        for path in (*self._rollouts.glob("step_*.jsonl"), *self._measured.glob("step_*.json")):
            if int(path.stem.removeprefix("step_")) > step:
                path.unlink()

    def log(self, record: StepRecord) -> None:
        """Write a step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(to_line({"step": record.step, **record.metrics}))
        write_objects(self._rollouts / f"step_{record.step:06d}.jsonl", rollout_rows(record))


def kept_steps(folder: Path, after: int) -> Iterator[tuple[int, dict[str, float], Iterator[dict[str, Any]]]]:
    """What a run folder has of the steps after one: metrics, with the accuracy that was measured then, and responses.

    Files of responses are opened when these are read; there are none where a file is not there.
    """
    for row in read_metrics(folder / "metrics.jsonl"):
        step = int(row.pop("step"))
        if step > after:
            measured, responses = folder / f"eval/step_{step:06d}.json", folder / f"rollouts/step_{step:06d}.jsonl"
            if measured.exists():
                row["eval/accuracy"] = read_measurements(measured)["sampled"].accuracy
            yield step, row, (one for _, one in read_objects(responses)) if responses.exists() else iter(())


def rollout_rows(record: StepRecord) -> Iterator[dict[str, object]]:
    """One row a response: what was asked, answered, scored, and how it trained; null where it did not."""
    trained = zip(record.groups, record.scores, record.shaped.tolist(), record.advantages.tolist(), strict=True)
    dropped = ((group, scores, [None] * len(scores), [None] * len(scores)) for group, scores in record.dropped)
    for group, scores, shaped, advantages in chain(trained, dropped):
        for index, response in enumerate(group.responses):
            yield {
                "id": group.ids[index],
                "task": group.prompt.task,
                "prompt": group.prompt.text,
                "prefix": group.prompt.prefix,
                "label": group.prompt.label,
                "response": response.text,
                "finish_reason": response.finish_reason,
                "num_tokens": len(response.token_ids),
                "weight_version": response.weight_version,
                "newest_weight_version": response.newest_weight_version,
                "score": scores[index].accuracy,
                "reward": scores[index].reward,
                "components": scores[index].components,
                "verdict": scores[index].verdict,
                "error": scores[index].error,
                "shaped_reward": shaped[index] if scores[index].valid else None,
                "advantage": advantages[index],
            }


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl; none where there is no file. A last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
