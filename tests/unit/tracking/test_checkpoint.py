"""Checkpoints on disk: complete or invisible, the newest intact one read, the oldest removed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from openr1.errors import MissingError
from openr1.tracking.checkpoint import Checkpoints
from openr1.types import RunningReward, TrainerState


def write_contents(folder: Path) -> None:
    """What a run would save: a file of the policy, deep down, and an exported model."""
    for name in ("policy/nested", "model"):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights.bin").write_bytes(b"weights")


def save(checkpoints: Checkpoints, step: int) -> Path:
    """A checkpoint after `step`."""
    return checkpoints.save(TrainerState(step, step + 1, {"epoch": 0, "cursor": step}), write_contents)


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


def test_state_of_a_running_reward_reads_back(tmp_path: Path) -> None:
    """Catches the running reward or the KL coefficient lost on resuming, or read back as a dictionary."""
    state = TrainerState(3, 3, {"epoch": 1, "cursor": 2}, RunningReward(0.5, 0.25), kl_coef=0.125)
    checkpoints = Checkpoints(tmp_path, keep=1)
    path = checkpoints.save(state, write_contents)
    assert checkpoints.newest() == (path, state)


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
    checkpoints = Checkpoints(tmp_path, keep=1)
    old = save(checkpoints, 1)
    with pytest.raises(DiskFull):
        checkpoints.save(TrainerState(2, 2, {}), write)
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
        checkpoints.save(TrainerState(1, 1, {}), fail_half_way)
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
            assert "is skipped: policy/nested/weights.bin is damaged" in shown


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
