"""What a run leaves on disk: rows and rollouts, checkpoints complete or invisible, a folder for one process."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openr1.config.load import to_yaml
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, MissingError
from openr1.tracking.checkpoint import Checkpoints
from openr1.tracking.recorder import RunRecorder, read_metrics
from openr1.tracking.run_folder import check_unused
from openr1.training.trainer import StepResult, TrainerState
from tests.fakes import make_config, make_group, make_prompt, make_score
from tests.running import ROOT


def make_record(step: int) -> StepResult:
    """A step with one group of two responses."""
    group = make_group(replace(make_prompt(3), text="题目 \n two"), (2, 1))
    scores = [make_score(1.0), make_score(None)]
    return StepResult(
        step, [group], [scores], torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.0]]), [], {"reward/mean": step / 10}
    )


def make_tracker(folder: Path, after: int = 0) -> RunRecorder:
    """A tracker for the steps after `after`."""
    tracker = RunRecorder(folder)
    tracker.forget_after(after)
    return tracker


def steps_on_disk(folder: Path) -> tuple[list[float], list[str]]:
    """The steps in metrics.jsonl, and the files of rollouts."""
    return [row["step"] for row in read_metrics(folder / "metrics.jsonl")], sorted(
        path.name for path in (folder / "rollouts").iterdir()
    )


# RunRecorder


def test_rows_of_a_step(tmp_path: Path) -> None:
    """Catches a response that stands with another's score, a failure written as 0, and Chinese written as escapes."""
    make_tracker(tmp_path).log(make_record(4))
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
    assert second["error"] == "grader_error: it broke"


def test_steps_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    """Catches two rows for a step that was made again, and rollouts of a step that no longer exists."""
    tracker = make_tracker(tmp_path)
    for step in range(1, 6):
        tracker.log(make_record(step))
    assert steps_on_disk(tmp_path)[0] == [1, 2, 3, 4, 5]
    resumed = make_tracker(tmp_path, 3)
    assert steps_on_disk(tmp_path) == ([1, 2, 3], [f"step_00000{step}.jsonl" for step in (1, 2, 3)])
    resumed.log(make_record(4))
    assert steps_on_disk(tmp_path) == ([1, 2, 3, 4], [f"step_00000{step}.jsonl" for step in (1, 2, 3, 4)])


def test_last_line_cut_by_a_crash(tmp_path: Path) -> None:
    """Catches a run that cannot be resumed because half a line stands at the end, or that glues the next row to it."""
    make_tracker(tmp_path).log(make_record(1))
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 2, "reward/me')
    assert read_metrics(path) == [{"step": 1, "reward/mean": 0.1}]
    make_tracker(tmp_path, 1).log(make_record(2))
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_metrics_of_a_run_that_made_no_step(tmp_path: Path) -> None:
    """Catches a traceback where there is nothing to read yet."""
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    make_tracker(tmp_path)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


# Checkpoints


def write_policy(folder: Path) -> None:
    """What a policy would save: a file in a folder of its own."""
    (folder / "nested").mkdir(parents=True)
    (folder / "nested/weights.bin").write_bytes(b"weights")


def save(checkpoints: Checkpoints, step: int) -> Path:
    """A checkpoint after `step`."""
    return checkpoints.save(TrainerState(step, step + 1, {"epoch": 0, "cursor": step}), write_policy, write_policy)


def newest_step(checkpoints: Checkpoints) -> int:
    """The step of the newest checkpoint."""
    newest = checkpoints.newest()
    assert newest is not None
    return newest[1].step


def names(folder: Path) -> list[str]:
    """What stands in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_saved_checkpoint_reads_back(tmp_path: Path) -> None:
    """Catches a state that is not written, and folders elsewhere than the docstring says."""
    folder = tmp_path / "checkpoints"
    path = save(Checkpoints(folder, keep=2), 7)
    assert path == folder / "step_000007"
    assert names(path) == ["checksums.json", "model", "policy", "trainer.json"]
    assert (path / "policy/nested/weights.bin").read_bytes() == b"weights"
    assert (folder / "latest").read_text() == "step_000007\n"
    assert Checkpoints(folder, keep=2).newest() == (path, TrainerState(7, 8, {"epoch": 0, "cursor": 7}))


def test_old_checkpoints_are_pruned(tmp_path: Path) -> None:
    """Catches the newest ones deleted instead of the oldest, and one more or less kept than asked for."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 9, 10):
        path = save(checkpoints, step)
        assert newest_step(checkpoints) == step
        assert (tmp_path / "latest").read_text().strip() == path.name
    assert names(tmp_path) == ["latest", "step_000009", "step_000010"]


class DiskFull(Exception):
    """What a save meets."""


def fail_half_way(folder: Path) -> None:
    """Write a part, then fail."""
    write_policy(folder)
    raise DiskFull


@pytest.mark.parametrize("failing", ["policy", "model"])
def test_failed_save_leaves_the_old_checkpoint(tmp_path: Path, failing: str) -> None:
    """Catches a half-written checkpoint under its final name, and an old one pruned before the new one stands."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    old = save(checkpoints, 1)
    writers = (fail_half_way, write_policy) if failing == "policy" else (write_policy, fail_half_way)
    with pytest.raises(DiskFull):
        checkpoints.save(TrainerState(2, 2, {}), *writers)
    assert checkpoints.complete() == [old]
    assert newest_step(checkpoints) == 1
    assert (tmp_path / "latest").read_text().strip() == old.name
    assert not (tmp_path / "step_000002").exists()
    # The next save succeeds and clears what was left.
    save(checkpoints, 2)
    assert names(tmp_path) == ["latest", "step_000002"]


def test_failed_save_of_the_same_step_leaves_it(tmp_path: Path) -> None:
    """Catches a complete checkpoint that is deleted first and then not replaced."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    old = save(checkpoints, 1)
    with pytest.raises(DiskFull):
        checkpoints.save(TrainerState(1, 1, {}), fail_half_way, write_policy)
    assert checkpoints.complete() == [old]


def test_incomplete_folders_are_not_read(tmp_path: Path) -> None:
    """Catches a resume from a folder that a crash left behind, because its number is the highest."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    path = save(checkpoints, 3)
    (tmp_path / "step_000004").mkdir()
    (tmp_path / "tmp_step_000005").mkdir()
    (tmp_path / "tmp_step_000005/trainer.json").write_text("{}")
    assert checkpoints.newest() == (path, TrainerState(3, 4, {"epoch": 0, "cursor": 3}))


def test_order_of_more_than_a_million_steps(tmp_path: Path) -> None:
    """Catches the newest checkpoint pruned, because its number has one digit more."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 999_999)
    path = save(checkpoints, 1_000_000)
    assert checkpoints.complete() == [path]


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_checkpoints_are_passed_over(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches training that goes on from what a disk has lost, and a run begun anew over checkpoints that are there."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    paths = [save(checkpoints, step) for step in (1, 2)]
    for path, newest in zip(reversed(paths), (1, None), strict=True):
        weights = path / "policy/nested/weights.bin"
        if damage == "gone":
            weights.unlink()
        else:
            weights.write_bytes(b"weighty")
        if newest is None:
            with pytest.raises(MissingError, match="all 2 checkpoints are damaged"):
                checkpoints.newest()
        else:
            assert newest_step(checkpoints) == newest
            shown = " ".join(capsys.readouterr().out.split())
            assert "is passed over: policy/nested/weights.bin is not as it was saved" in shown


def test_a_save_outlives_damaged_ones_of_later_steps(tmp_path: Path) -> None:
    """Catches a checkpoint that is removed as it is written, since damaged ones of later steps count as the newest."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 10)
    checkpoints.mark_best(10)
    (save(checkpoints, 20) / "policy/nested/weights.bin").unlink()
    assert newest_step(checkpoints) == 10
    path = save(checkpoints, 15)
    assert names(tmp_path) == ["best", "damaged_step_000020", "latest", "step_000010", "step_000015"]
    assert (newest_step(checkpoints), (tmp_path / "latest").read_text()) == (15, f"{path.name}\n")


def test_checkpoints_without_a_model_are_taken(tmp_path: Path) -> None:
    """Catches a run that cannot be resumed because its exported model was moved away, and one without checksums."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    path = save(checkpoints, 5)
    (path / "model").rename(tmp_path / "model")
    assert newest_step(checkpoints) == 5
    (path / "checksums.json").unlink()
    with pytest.raises(MissingError, match="damaged"):
        checkpoints.newest()


def test_no_checkpoint(tmp_path: Path) -> None:
    """Catches a traceback where a run was stopped before its first checkpoint, whose folder does not even exist."""
    assert Checkpoints(tmp_path / "checkpoints", keep=1).newest() is None
    assert Checkpoints(tmp_path / "checkpoints", keep=1).complete() == []


# The run folder


def test_used_folder_is_refused(tmp_path: Path) -> None:
    """Catches a run written over, and a resume where there is nothing to resume."""
    folder = tmp_path / "run"
    check_unused(folder, resume=False)
    with pytest.raises(MissingError, match="no run to resume"):
        check_unused(folder, resume=True)
    assert not folder.exists()
    config = make_config(tmp_path)
    with open_run_folder(folder, config, resume=False):
        assert (folder / "config.yaml").read_text() == to_yaml(config)
    with pytest.raises(ConfigError, match="already used by a run"):
        check_unused(folder, resume=False)
    check_unused(folder, resume=True)


OPEN = """
import os, sys
from pathlib import Path
from openr1.tracking.run_folder import opened
from tests.fakes import make_config
try:
    with open_run_folder(Path(sys.argv[1]), make_config(Path("another")), resume=False):
        os._exit(7)
except Exception as error:
    print(type(error).__name__, error)
"""


def open_in_another_process(folder: Path) -> subprocess.CompletedProcess[str]:
    """Open the folder and die without closing it; what prevents that is printed."""
    command = [sys.executable, "-c", OPEN, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_second_process_is_refused(tmp_path: Path) -> None:
    """Catches two runs that write the same files; the second must not even replace the config."""
    folder = tmp_path / "run"
    config = make_config(tmp_path)
    with open_run_folder(folder, config, resume=False):
        other = open_in_another_process(folder)
        assert other.stdout.startswith(f"ConfigError {folder}: another process is writing")
        assert (folder / "config.yaml").read_text() == to_yaml(config)
    # The lock ends with its block.
    assert open_in_another_process(folder).returncode == 7


def test_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    """Catches a killed run that can never be resumed, because its lock file is still there."""
    assert open_in_another_process(tmp_path).returncode == 7
    config = make_config(tmp_path)
    with open_run_folder(tmp_path, config, resume=False):
        assert (tmp_path / "config.yaml").read_text() == to_yaml(config)


def test_lock_is_released_by_an_error(tmp_path: Path) -> None:
    """Catches a lock that a failed run in this process keeps."""

    def fail() -> None:
        with open_run_folder(tmp_path, make_config(tmp_path), resume=False):
            raise DiskFull

    for _ in range(2):
        with pytest.raises(DiskFull):
            fail()


def test_resume_with_another_config_names_the_keys(tmp_path: Path) -> None:
    """Catches a run that goes on with another model, or a refusal that does not tell what differs."""
    config = make_config(tmp_path)
    with open_run_folder(tmp_path, config, resume=False):
        pass
    changed = make_config(tmp_path, rollout={"temperature": 0.5}, policy={"zero_stage": 1})

    def resume(config: TrainConfig) -> None:
        with open_run_folder(tmp_path, config, resume=True):
            pass

    with pytest.raises(ConfigError) as caught:
        resume(changed)
    assert "other values of policy.zero_stage, rollout.temperature;" in str(caught.value)
    # The config of the run is kept, and the lock is free.
    assert (tmp_path / "config.yaml").read_text() == to_yaml(config)
    # The reward server may stand elsewhere, training may go on for longer, and the step that failed be recorded.
    longer = make_config(tmp_path, reward={"url": "http://127.0.0.1:1"}, debug={"record": "records"}, num_steps=9)
    resume(longer)
    assert (tmp_path / "config.yaml").read_text() == to_yaml(longer)


def test_the_config_is_replaced_whole(tmp_path: Path) -> None:
    """Catches a kill between emptying and writing, after which a run whose checkpoints are all there cannot go on."""
    config = make_config(tmp_path)
    with open_run_folder(tmp_path, config, resume=False):
        pass
    (tmp_path / "before").hardlink_to(tmp_path / "config.yaml")
    with open_run_folder(tmp_path, make_config(tmp_path, num_steps=9), resume=True):
        pass
    assert (tmp_path / "before").read_text() == to_yaml(config)


def test_a_run_of_before_a_key_was_there_can_be_resumed(tmp_path: Path) -> None:
    """Catches runs that end with an update of openr1, and a new key that is set on resuming all the same."""
    config = make_config(tmp_path)
    values = config.model_dump(mode="json")
    del values["off_policy"], values["algorithm"]["max_epochs"]
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    with open_run_folder(tmp_path, config, resume=True):
        pass
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    changed = make_config(tmp_path, algorithm={"max_epochs": 2})
    with (
        pytest.raises(ConfigError, match=r"other values of algorithm\.max_epochs;"),
        open_run_folder(tmp_path, changed, True),
    ):
        pass
