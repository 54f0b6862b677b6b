"""What a run records of its steps: a row of metrics, rows of rollouts, and what a resumed run forgets of them."""

import errno
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from openr1.config.sections import TrackingConfig
from openr1.data.rollout_files import rollout_files
from openr1.errors import MissingError
from openr1.rollout.experience import StepResult
from openr1.runtime.files import read_objects
from openr1.tracking.eval_results import EvalResult, eval_path, read_eval_results, write_eval_results
from openr1.tracking.recorder import RunRecorder, read_metrics, recorded_steps, rollout_rows
from tests.small_disk import fill, small_disk
from tests.unit.tracking.steps import make_scored, make_step

EVALUATED = EvalResult(0.25, (0.2, 0.3), 0.5, 8, 1, 1.0, 3.0, 0.0)


def make_result(step: int) -> StepResult:
    """A step with one group of two responses, the second of which could not be graded."""
    scored = make_scored(3, "题目 \n two", [1.0, None])
    return make_step(step, scored, [0.5, 0.0], {"reward/mean": step / 10}, rewards=[2.0, 0.0])


def make_recorder(folder: Path, after: int = 0, **tracking: object) -> RunRecorder:
    """A recorder for the steps after `after`."""
    recorder = RunRecorder(folder, TrackingConfig.model_validate(tracking))
    recorder.forget_after(after)
    return recorder


def record(recorder: RunRecorder, *steps: int) -> None:
    """Record these steps."""
    for step in steps:
        result = make_result(step)
        recorder.record_metrics(step, result.metrics)
        recorder.record_rollouts(step, rollout_rows(result.experience))


def steps_on_disk(folder: Path) -> tuple[list[float], list[str]]:
    """The steps in metrics.jsonl, and the files of rollouts."""
    return [row["step"] for row in read_metrics(folder / "metrics.jsonl")], sorted(
        path.name for path in (folder / "rollouts").iterdir()
    )


def test_copies_of_records_are_left_alone(tmp_path: Path) -> None:
    """Catches a copy of a file of responses that ends a resumed run with a traceback, or is removed by it."""
    record(make_recorder(tmp_path), 1, 2)
    copy = tmp_path / "rollouts/step_000002_copy.jsonl"
    copy.write_text("{}\n")
    make_recorder(tmp_path, after=1)
    assert steps_on_disk(tmp_path) == ([1], ["step_000001.jsonl", "step_000002_copy.jsonl"])


# Rows


def test_rows_of_a_step(tmp_path: Path) -> None:
    """Catches a response that stands with another's score, a failure written as 0, and Chinese written as escapes."""
    record(make_recorder(tmp_path), 4)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 4, "reward/mean": 0.4}\n'
    text = (tmp_path / "rollouts/step_000004.jsonl").read_text(encoding="utf-8")
    assert "题目" in text
    first, second = (json.loads(line) for line in text.splitlines())
    # make_prompt(3) has the token 13, so that its responses are made of 130 and of 131.
    assert first == {
        "id": "p3/0",
        "task": "countdown",
        "prompt": "题目 \n two",
        "prefix": "",
        "label": "{}",
        "response": "130 130",
        "finish_reason": "stop",
        "num_tokens": 2,
        "weight_version": 0,
        "newest_weight_version": 0,
        "score": 1.0,
        "reward": 1.0,
        "components": {"equation": 1.0},
        "verdict": "correct",
        "error": None,
        "shaped_reward": 2.0,
        "advantage": 0.5,
    }
    assert (second["id"], second["response"], second["num_tokens"]) == ("p3/1", "131", 1)
    assert (second["reward"], second["score"], second["advantage"]) == (None, None, 0.0)
    assert second["shaped_reward"] is None
    assert second["error"] == "grader_error: it broke"


def test_rows_of_penalized_and_of_dropped_responses() -> None:
    """Catches a shaped reward without its KL penalty, and dropped groups that are lost or seem to have trained."""
    scored, dropped = make_scored(1, "a", [1.0, 0.0]), make_scored(2, "b", [1.0, 1.0])
    # A prompt token, then two response tokens and one: penalties of 0.25 + 0.5 and of 1.
    penalty = torch.tensor([[0.0, 0.25, 0.5], [0.0, 1.0, 0.0]])
    result = make_step(1, scored, [0.5, -0.5], {}, dropped=[dropped], kl_penalty=penalty)
    rows = list(rollout_rows(result.experience))
    assert [(row["id"], row["reward"], row["shaped_reward"], row["advantage"]) for row in rows] == [
        ("p1/0", 1.0, 0.25, 0.5),
        ("p1/1", 0.0, -1.0, -0.5),
        ("p2/0", 1.0, None, None),
        ("p2/1", 1.0, None, None),
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_are_json_whatever_their_values(tmp_path: Path, value: float) -> None:
    """Catches `NaN` in a file that other programs read as JSON, of the step that matters most: the broken one."""
    recorder = make_recorder(tmp_path)
    recorder.record_metrics(1, {"policy/kl": value})
    recorder.add_to_step(1, {"eval/loss": value})
    path = tmp_path / "metrics.jsonl"
    for _ in range(2):
        assert path.read_text() == '{"step": 1, "policy/kl": null, "eval/loss": null}\n'
        (row,) = read_metrics(path)
        assert row["step"] == 1
        assert math.isnan(row["policy/kl"])
        recorder.forget_after(1)


def test_metrics_added_to_a_step(tmp_path: Path) -> None:
    """Catches an evaluation in another step's row, in a row of its own, or in place of the step's own metrics."""
    recorder = make_recorder(tmp_path)
    record(recorder, 1, 2)
    path = tmp_path / "metrics.jsonl"
    (tmp_path / "before").hardlink_to(path)
    recorder.add_to_step(2, {"eval/accuracy": 0.5})
    rows = [{"step": 1, "reward/mean": 0.1}, {"step": 2, "reward/mean": 0.2, "eval/accuracy": 0.5}]
    assert read_metrics(path) == rows
    # Whoever had it open goes on reading the rows as they were: the file was replaced, not emptied and written.
    assert read_metrics(tmp_path / "before") == [rows[0], {"step": 2, "reward/mean": 0.2}]
    record(recorder, 3)
    assert read_metrics(path) == [*rows, {"step": 3, "reward/mean": 0.3}]


@pytest.mark.parametrize("left", [1, 0])
def test_metrics_added_to_a_step_whose_row_is_lost(left: int, tmp_path: Path) -> None:
    """Catches a run that cannot be resumed after a power failure, which took rows but not the checkpoint."""
    recorder = make_recorder(tmp_path)
    record(recorder, *range(1, 1 + left))
    recorder.add_to_step(2, {"eval/accuracy": 0.5})
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[:-1] == [{"step": 1, "reward/mean": 0.1}][:left]
    assert rows[-1] == {"step": 2, "eval/accuracy": 0.5}


# Resumed runs


def test_steps_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    """Catches two rows for a step that was made again, and rollouts or evaluations of a step that no longer exists."""
    record(make_recorder(tmp_path), 1, 2, 3, 4, 5)
    for step in (0, 3, 4):
        write_eval_results(eval_path(tmp_path, step), {"sampled": EVALUATED})
    assert steps_on_disk(tmp_path)[0] == [1, 2, 3, 4, 5]
    resumed = make_recorder(tmp_path, 3)
    assert steps_on_disk(tmp_path) == ([1, 2, 3], [f"step_00000{step}.jsonl" for step in (1, 2, 3)])
    assert [bool(read_eval_results(eval_path(tmp_path, step))) for step in (0, 3, 4)] == [True, True, False]
    record(resumed, 4)
    assert steps_on_disk(tmp_path) == ([1, 2, 3, 4], [f"step_00000{step}.jsonl" for step in (1, 2, 3, 4)])


def test_last_line_cut_by_a_crash(tmp_path: Path) -> None:
    """Catches a run that cannot be resumed because half a line stands at the end, or that glues the next row to it."""
    record(make_recorder(tmp_path), 1)
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 2, "reward/me')
    assert read_metrics(path) == [{"step": 1, "reward/mean": 0.1}]
    record(make_recorder(tmp_path, 1), 2)
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_metrics_of_a_run_that_made_no_step(tmp_path: Path) -> None:
    """Catches a traceback where there is nothing to read yet."""
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    make_recorder(tmp_path)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_recorded_steps(tmp_path: Path) -> None:
    """Catches a step read again or left out, an accuracy that is lost, and a traceback where rollouts were removed."""
    recorder = make_recorder(tmp_path)
    record(recorder, 1, 2, 3, 4)
    recorder.add_to_step(4, {"eval/accuracy": 0.75})
    # Of a run that was killed between its evaluation and its row.
    write_eval_results(eval_path(tmp_path, 3), {"sampled": EVALUATED})
    (tmp_path / "rollouts/step_000002.jsonl").unlink()
    steps = [(step, metrics, [row["id"] for row in rows]) for step, metrics, rows in recorded_steps(tmp_path, 1)]
    assert steps == [
        (2, {"reward/mean": 0.2}, []),
        (3, {"reward/mean": 0.3, "eval/accuracy": 0.25}, ["p3/0", "p3/1"]),
        (4, {"reward/mean": 0.4, "eval/accuracy": 0.75}, ["p3/0", "p3/1"]),
    ]
    assert list(recorded_steps(tmp_path, 4)) == []


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    """Catches rows that wait in a buffer, which a killed run loses though its checkpoint is there."""
    recorder = make_recorder(tmp_path)
    recorder.record_metrics(1, {"reward/mean": 0.1})
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "reward/mean": 0.1}
    ]


# Disks


def test_compressed_rollouts(tmp_path: Path) -> None:
    """Catches compressed rows that read back as others, that a resumed run keeps, and equal rows in unequal files."""
    record(make_recorder(tmp_path), 1)
    record(make_recorder(tmp_path, after=1, compress_rollouts=True), 2, 3)
    assert steps_on_disk(tmp_path)[1] == ["step_000001.jsonl", "step_000002.jsonl.gz", "step_000003.jsonl.gz"]
    assert [step for step, _ in rollout_files(tmp_path)] == [1, 2, 3]
    texts = [list(rows) for _, _, rows in recorded_steps(tmp_path, after=0)]
    assert texts[0] == texts[1] == texts[2] != []
    path = tmp_path / "rollouts/step_000002.jsonl.gz"
    assert gzip.decompress(path.read_bytes()) == (tmp_path / "rollouts/step_000001.jsonl").read_bytes()
    assert path.read_bytes() == (tmp_path / "rollouts/step_000003.jsonl.gz").read_bytes()
    make_recorder(tmp_path, after=1)
    assert steps_on_disk(tmp_path)[1] == ["step_000001.jsonl"]


@pytest.mark.parametrize("damage", [lambda whole: whole[:-9], lambda whole: b"{}\n", lambda whole: whole[:30] + b"x"])
def test_damaged_compressed_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Catches a traceback, or rows without their end, where a compressed file was cut off or never was one."""
    record(make_recorder(tmp_path, compress_rollouts=True), 1)
    path = tmp_path / "rollouts/step_000001.jsonl.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MissingError, match=r"step_000001\.jsonl\.gz: not a complete gzip file"):
        list(read_objects(path))


def test_only_the_newest_rollouts_are_kept(tmp_path: Path) -> None:
    """Catches the oldest files kept in place of the newest, one that is still needed removed, and a user's copy."""
    recorder = make_recorder(tmp_path, keep_rollouts=2)
    asked = []

    def is_needed(step: int, newest: int) -> bool:
        asked.append((step, newest))
        return step == 2

    for step in range(1, 6):
        record(recorder, step)
        if step == 1:
            (tmp_path / "rollouts/step_000001_copy.jsonl").write_text("{}\n")
        recorder.prune_rollouts(is_needed)
    files = ["step_000001_copy.jsonl", "step_000002.jsonl", "step_000004.jsonl", "step_000005.jsonl"]
    assert steps_on_disk(tmp_path) == ([1, 2, 3, 4, 5], files)
    assert asked == [(1, 3), (2, 4), (2, 5), (3, 5)]
    make_recorder(tmp_path, after=5).prune_rollouts(lambda step, newest: False)
    assert steps_on_disk(tmp_path)[1] == files


def test_full_disk(tmp_path: Path) -> None:
    """Catches half a row of metrics, on whose line the next one would stand, parts of files, and an error without its
    file."""
    with small_disk(tmp_path / "disk", 2**20) as folder:
        recorder = make_recorder(folder)
        record(recorder, 1)
        before = (folder / "metrics.jsonl").read_bytes()
        filling = fill(folder)
        # Longer than what is left of the page that the file ends in.
        metrics = {f"metric/{number}": 0.5 for number in range(1000)}
        for write in (
            lambda: recorder.record_metrics(2, metrics),
            lambda: recorder.add_to_step(1, metrics),
            lambda: recorder.record_rollouts(2, [metrics]),
            lambda: write_eval_results(eval_path(folder, 2), {"sampled": EVALUATED}),
        ):
            with pytest.raises(OSError, match="No space left on device: '/proc/") as raised:
                write()
            assert raised.value.errno == errno.ENOSPC
        assert (folder / "metrics.jsonl").read_bytes() == before
        assert sorted(path.name for path in folder.rglob("*.*")) == ["metrics.jsonl", "step_000001.jsonl"]
        filling.unlink()
        record(recorder, 2)
        assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [1, 2]
