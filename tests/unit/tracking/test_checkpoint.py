"""Checkpoints on disk: complete or invisible, the newest intact one read, the oldest removed."""

import shutil
import signal
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from openr1.config.sections import CheckpointConfig
from openr1.errors import MissingError, NotSaved, PolicyError, StageTimeout, TrainingError
from openr1.runtime.interrupts import POLL_SECONDS, Interrupted
from openr1.tracking import checkpoint
from openr1.tracking.checkpoint import Checkpoints
from openr1.types import RunningReward, TrainerState


def write_contents(folder: Path) -> None:
    """What a run would save: a file of the policy, deep down, and an exported model."""
    for name in ("policy/nested", "model"):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights.bin").write_bytes(b"weights")


def save(checkpoints: Checkpoints, step: int) -> Path:
    """A checkpoint after `step`."""
    return save_state(checkpoints, TrainerState(step, step + 1, {"epoch": 0, "cursor": step}))


def save_state(checkpoints: Checkpoints, state: TrainerState, write: Callable[[Path], None] = write_contents) -> Path:
    """A checkpoint of which everything is written at once; its folder."""
    checkpoints.save(state, write, lambda: True)
    checkpoints.finish()
    return checkpoints.complete()[-1]


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
    path = save(Checkpoints(folder, CheckpointConfig(keep=2), timeout_seconds=60), 7)
    assert path == folder / "step_000007"
    assert names(path) == ["checksums.json", "model", "policy", "trainer.json"]
    assert (path / "policy/nested/weights.bin").read_bytes() == b"weights"
    assert (folder / "latest").read_text() == "step_000007\n"
    assert Checkpoints(folder, CheckpointConfig(keep=2), timeout_seconds=60).newest() == (
        path,
        TrainerState(7, 8, {"epoch": 0, "cursor": 7}),
    )


def test_state_of_a_running_reward_reads_back(tmp_path: Path) -> None:
    """Catches the running reward or the KL coefficient lost on resuming, or read back as a dictionary."""
    state = TrainerState(3, 3, {"epoch": 1, "cursor": 2}, RunningReward(0.5, 0.25), kl_coef=0.125)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60)
    path = save_state(checkpoints, state)
    assert checkpoints.newest() == (path, state)


def test_old_checkpoints_are_pruned(tmp_path: Path) -> None:
    """Catches the newest ones deleted instead of the oldest, and one more or less kept than asked for."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=2), timeout_seconds=60)
    for step in (1, 2, 9, 10):
        path = save(checkpoints, step)
        assert newest_step(checkpoints) == step
        assert (tmp_path / "latest").read_text().strip() == path.name
    assert names(tmp_path) == ["latest", "step_000009", "step_000010"]


class DiskFull(Exception):
    """What a save meets."""


def fail_half_way(folder: Path) -> None:
    """Write a part, then fail."""
    (folder / "policy").mkdir()
    (folder / "policy/weights.bin").write_bytes(b"weig")
    raise DiskFull


def fail_at_the_end(folder: Path) -> None:
    """Write everything, then fail."""
    write_contents(folder)
    raise DiskFull


@pytest.mark.parametrize("write", [fail_half_way, fail_at_the_end])
def test_failed_save_leaves_the_old_checkpoint(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Catches a half-written checkpoint under its final name, and an old one pruned before the new one stands."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60)
    old = save(checkpoints, 1)
    with pytest.raises(DiskFull):
        save_state(checkpoints, TrainerState(2, 2, {}), write)
    assert checkpoints.complete() == [old]
    assert newest_step(checkpoints) == 1
    assert (tmp_path / "latest").read_text().strip() == old.name
    assert not (tmp_path / "step_000002").exists()
    # The next save succeeds and clears what was left.
    save(checkpoints, 2)
    assert names(tmp_path) == ["latest", "step_000002"]


def test_names_of_others_are_left_alone(tmp_path: Path) -> None:
    """Catches a copy that a user made beside checkpoints: read as one, removed, or the end of every later save."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60)
    shutil.copytree(save(checkpoints, 1), tmp_path / "step_000001_good")
    shutil.copytree(tmp_path / "step_000001", tmp_path / "step_1")
    for name in ("tmp_note.txt", "tmp_step_000001.tar"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "tmp_step_000009").mkdir()
    save(checkpoints, 2)
    assert newest_step(checkpoints) == 2
    others = ["step_000001_good", "step_1", "tmp_note.txt", "tmp_step_000001.tar"]
    assert names(tmp_path) == sorted(["latest", "step_000002", *others])


def test_a_checkpoint_on_another_disk(tmp_path: Path) -> None:
    """Catches a checkpoint that was moved and linked back: later saves must go on, and what was moved must stay."""
    checkpoints = Checkpoints(tmp_path / "run", CheckpointConfig(keep=1), timeout_seconds=60)
    linked = save(checkpoints, 1)
    moved = tmp_path / "disk/step_000001"
    moved.parent.mkdir()
    linked.rename(moved)
    linked.symlink_to(moved)
    assert newest_step(checkpoints) == 1
    save(checkpoints, 1)
    assert not linked.is_symlink()
    shutil.rmtree(linked)
    linked.symlink_to(moved)
    for step in (2, 3):
        save(checkpoints, step)
    assert names(tmp_path / "run") == ["latest", "step_000003"]
    assert (moved / "trainer.json").is_file()


def test_failed_save_of_the_same_step_leaves_it(tmp_path: Path) -> None:
    """Catches a complete checkpoint that is deleted first and then not replaced."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60)
    old = save(checkpoints, 1)
    with pytest.raises(DiskFull):
        save_state(checkpoints, TrainerState(1, 1, {}), fail_half_way)
    assert checkpoints.complete() == [old]


def test_incomplete_folders_are_not_read(tmp_path: Path) -> None:
    """Catches a resume from a folder that a crash left behind, because its number is the highest."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=3), timeout_seconds=60)
    path = save(checkpoints, 3)
    (tmp_path / "step_000004").mkdir()
    (tmp_path / "tmp_step_000005").mkdir()
    (tmp_path / "tmp_step_000005/trainer.json").write_text("{}")
    assert checkpoints.newest() == (path, TrainerState(3, 4, {"epoch": 0, "cursor": 3}))


def test_order_of_more_than_a_million_steps(tmp_path: Path) -> None:
    """Catches the newest checkpoint pruned, because its number has one digit more."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60)
    save(checkpoints, 999_999)
    path = save(checkpoints, 1_000_000)
    assert checkpoints.complete() == [path]


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_checkpoints_are_passed_over(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches training that goes on from what a disk has lost, and a run begun anew over checkpoints that are there."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=3), timeout_seconds=60)
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
            assert "is skipped: policy/nested/weights.bin is damaged" in shown


def flip_a_bit(path: Path) -> None:
    """As a disk may, in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b"") is None,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) is None,
    "flipped": flip_a_bit,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["trainer.json", "checksums.json", "policy/nested/weights.bin"])
def test_damage_of_any_file_is_found(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a file that no checksum covers, and a run that begins anew, and forgets its records, since its only
    checkpoint lacks the file by which checkpoints are recognized.
    """
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=3), timeout_seconds=60)
    older, newer = (save(checkpoints, step) for step in (1, 2))
    DAMAGES[damage](newer / name)
    assert newest_step(checkpoints) == 1
    assert f"{newer} is skipped" in capsys.readouterr().out.replace("\n", "")
    DAMAGES[damage](older / name)
    with pytest.raises(MissingError, match="all 2 checkpoints are damaged"):
        checkpoints.newest()


def test_a_save_outlives_damaged_ones_of_later_steps(tmp_path: Path) -> None:
    """Catches a checkpoint that is removed as it is written, since damaged ones of later steps count as the newest."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60)
    save(checkpoints, 10)
    checkpoints.mark_best(10)
    (save(checkpoints, 20) / "policy/nested/weights.bin").unlink()
    assert newest_step(checkpoints) == 10
    path = save(checkpoints, 15)
    assert names(tmp_path) == ["best", "damaged_step_000020", "latest", "step_000010", "step_000015"]
    assert (newest_step(checkpoints), (tmp_path / "latest").read_text()) == (15, f"{path.name}\n")


def test_checkpoints_without_a_model_are_taken(tmp_path: Path) -> None:
    """Catches a run that cannot be resumed because its exported model was moved away, and one without checksums."""
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=3), timeout_seconds=60)
    path = save(checkpoints, 5)
    (path / "model").rename(tmp_path / "model")
    assert newest_step(checkpoints) == 5
    (path / "checksums.json").unlink()
    with pytest.raises(MissingError, match="damaged"):
        checkpoints.newest()


def test_no_checkpoint(tmp_path: Path) -> None:
    """Catches a traceback where a run was stopped before its first checkpoint, whose folder does not even exist."""
    assert Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep=1), timeout_seconds=60).newest() is None
    assert Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep=1), timeout_seconds=60).complete() == []


# In the background


class Ranks:
    """What writes files, and says when it is done."""

    def __init__(self, folder: Path) -> None:
        """Write for checkpoints in `folder`."""
        self.folder = folder
        self.done = threading.Event()
        self.error: Exception | None = None
        self.begun: list[Path] = []

    def write(self, folder: Path) -> None:
        """Only begun."""
        self.begun.append(folder)

    def is_written(self) -> bool:
        """Write everything once it may."""
        if self.error is not None:
            raise self.error
        if self.done.is_set():
            write_contents(self.begun[-1])
        return self.done.is_set()


def visible(folder: Path) -> list[str]:
    """What a reader of checkpoints sees."""
    return [name for name in names(folder) if not name.startswith("tmp_")]


def check_until_it_fails(checkpoints: Checkpoints) -> None:
    """What a run does after each step."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        checkpoints.check()
        time.sleep(0.05)


def test_a_checkpoint_appears_when_all_ranks_have_written(tmp_path: Path) -> None:
    """Catches a checkpoint that is published, or pruned for, while a rank still writes, and a run that waits for it."""
    checkpoints, ranks = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60), Ranks(tmp_path)
    save(checkpoints, 1)
    checkpoints.save(TrainerState(2, 2, {}), ranks.write, ranks.is_written)
    checkpoints.check()
    time.sleep(2 * POLL_SECONDS)
    assert visible(tmp_path) == ["latest", "step_000001"]
    assert newest_step(checkpoints) == 1
    ranks.done.set()
    checkpoints.finish()
    assert visible(tmp_path) == ["latest", "step_000002"]
    assert names(tmp_path / "step_000002") == ["checksums.json", "model", "policy", "trainer.json"]
    assert newest_step(checkpoints) == 2


def test_the_next_checkpoint_and_the_best_wait(tmp_path: Path) -> None:
    """Catches a save that removes the files of the one before it, and a best checkpoint that is not there yet."""
    checkpoints, ranks = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60), Ranks(tmp_path)
    checkpoints.save(TrainerState(1, 1, {}), ranks.write, ranks.is_written)
    threading.Timer(0.5, ranks.done.set).start()
    checkpoints.mark_best(1)
    assert checkpoints.best() == 1
    again = Ranks(tmp_path)
    checkpoints.save(TrainerState(2, 2, {}), again.write, again.is_written)
    threading.Timer(0.5, again.done.set).start()
    save(checkpoints, 3)
    assert visible(tmp_path) == ["best", "latest", "step_000001", "step_000003"]


def test_a_failure_in_the_background_ends_the_run(tmp_path: Path) -> None:
    """Catches a run that trains on without checkpoints, a failure that is told twice, and an error without a place."""
    checkpoints, ranks = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60), Ranks(tmp_path)
    save(checkpoints, 1)
    ranks.error = PolicyError("policy could not be written: disk full")
    checkpoints.save(TrainerState(2, 2, {}), ranks.write, ranks.is_written)
    with pytest.raises(PolicyError, match="disk full"):
        check_until_it_fails(checkpoints)
    checkpoints.finish()
    checkpoints.save(TrainerState(3, 3, {}), lambda folder: None, lambda: shutil.rmtree(tmp_path) is None)
    with pytest.raises(NotSaved, match=r"step 3 is not saved: .*No such file"):
        checkpoints.finish()


def test_files_that_never_come(tmp_path: Path) -> None:
    """Catches a wait without an end, and a message that does not say what for and how long."""
    checkpoints, ranks = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=0.3), Ranks(tmp_path)
    checkpoints.save(TrainerState(2, 2, {}), ranks.write, ranks.is_written)
    with pytest.raises(StageTimeout, match=r"the run waits for .*: not written within 0\.3 s \(policy.timeout_seconds"):
        checkpoints.finish()
    with pytest.raises(StageTimeout, match=r"tmp_step_000002: not written within"):
        check_until_it_fails(checkpoints)
    assert visible(tmp_path) == []


@pytest.mark.parametrize("jump", [1e6, -1e6])
def test_a_clock_that_is_set_changes_no_deadline(tmp_path: Path, jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a checkpoint that is given up, or awaited for days, since somebody, or NTP, has set the clock."""
    real, calls = time.time, count()
    monkeypatch.setattr(time, "time", lambda: real() + jump * next(calls))
    checkpoints, ranks = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60), Ranks(tmp_path)
    checkpoints.save(TrainerState(1, 1, {}), ranks.write, ranks.is_written)
    threading.Timer(3 * POLL_SECONDS, ranks.done.set).start()
    checkpoints.finish()
    assert newest_step(checkpoints) == 1
    never = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=0.3)
    never.save(TrainerState(2, 2, {}), lambda folder: None, lambda: False)
    with pytest.raises(StageTimeout):
        never.finish()


def test_a_run_that_ends_gives_up_what_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a thread that outlives its run, and one that is given up although it is nearly done."""
    monkeypatch.setattr(checkpoint, "CLOSE_SECONDS", 2.0)
    quick, slow = Ranks(tmp_path / "quick"), Ranks(tmp_path / "slow")
    for ranks in (quick, slow):
        checkpoints = Checkpoints(ranks.folder, CheckpointConfig(keep=1), timeout_seconds=60)
        checkpoints.save(TrainerState(2, 2, {}), ranks.write, ranks.is_written)
        if ranks is quick:
            threading.Timer(0.5, ranks.done.set).start()
        checkpoints.close()
    assert visible(quick.folder) == ["latest", "step_000002"]
    with pytest.raises(TrainingError, match="was given up: the run ended"):
        checkpoints.finish()
    assert visible(slow.folder) == []


def test_signals_are_for_the_main_thread(tmp_path: Path) -> None:
    """Catches a checkpoint that is lost because a signal came while its files were asked for."""
    answers = iter([Interrupted(signal.SIGTERM), False, True])

    def is_written() -> bool:
        answer = next(answers)
        if isinstance(answer, Interrupted):
            raise answer
        return answer

    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=1), timeout_seconds=60)
    checkpoints.save(TrainerState(2, 2, {}), write_contents, is_written)
    checkpoints.finish()
    assert visible(tmp_path) == ["latest", "step_000002"]
