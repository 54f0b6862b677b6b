"""Checkpoints on a real disk that is full: the older ones stay, nothing partial is left, and the settings decide."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from openr1.config.sections import CheckpointConfig
from openr1.errors import NotSaved
from openr1.runtime.disk import free_bytes, in_gib, used_bytes
from openr1.tracking.checkpoint import Checkpoints
from openr1.types import TrainerState
from openr1.workers.background import BackgroundWriter
from tests.small_disk import fill, small_disk

SIZE = 300 * 1024
"""Of a checkpoint; the disk holds three."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    with small_disk(tmp_path / "disk", 2**20) as folder:
        yield folder


def make_checkpoints(disk: Path, on_failed_save: Literal["stop", "continue"], checkpoint_bytes: int = 0) -> Checkpoints:
    """Two are kept."""
    settings = CheckpointConfig(keep=2, on_failed_save=on_failed_save)
    return Checkpoints(disk / "checkpoints", settings, timeout_seconds=60, checkpoint_bytes=checkpoint_bytes)


def save(checkpoints: Checkpoints, step: int, before_publishing: Callable[[], object] = lambda: None) -> None:
    """A checkpoint that ranks write in the background; then something happens."""
    writer = BackgroundWriter()

    def write(folder: Path) -> None:
        (folder / "policy").mkdir()
        path = folder / "policy/weights.bin"
        writer.submit(path, lambda: path.write_bytes(bytes(SIZE)))

    def is_written() -> bool:
        if done := writer.is_done():
            before_publishing()
        return done

    checkpoints.save(TrainerState(step, step, {}), write, is_written)
    checkpoints.finish()


def names(disk: Path) -> list[str]:
    """What stands in the folder of checkpoints."""
    return sorted(path.name for path in (disk / "checkpoints").iterdir())


def check_step(checkpoints: Checkpoints, step: int) -> None:
    """That the newest checkpoint is undamaged and of this step."""
    newest = checkpoints.newest()
    assert newest is not None
    assert newest[1].step == step
    assert used_bytes(newest[0] / "policy") == SIZE


# Room for a file, for no more than a page, and for all but what the driver adds.
@pytest.mark.parametrize(("left", "late"), [(SIZE // 3, False), (0, False), (SIZE + 4096, True)])
def test_full_disk_ends_the_run(disk: Path, left: int, late: bool) -> None:
    """Catches an older checkpoint lost to one that has no room, parts of that one that keep the disk full, and a cause
    that is not told."""
    checkpoints = make_checkpoints(disk, "stop")
    save(checkpoints, 1)
    save(checkpoints, 2)
    fill(disk, 2 * SIZE if late else left)
    with pytest.raises(NotSaved, match=r"step 3 is not saved: .*No space left.* are free there") as told:
        save(checkpoints, 3, lambda: (disk / "more").write_bytes(bytes(free_bytes(disk))) if late else None)
    assert "\n" not in str(told.value)
    assert names(disk) == ["latest", "step_000001", "step_000002"]
    assert (checkpoints.saved, checkpoints.num_failed) == (2, 1)
    check_step(checkpoints, 2)


def test_the_run_goes_on_if_it_shall(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a disk that was full once and ends the run, or all later saves, and a last step lost unsaid."""
    checkpoints = make_checkpoints(disk, "continue")
    save(checkpoints, 1)
    filling = fill(disk, SIZE // 3)
    for step in (2, 3):
        save(checkpoints, step)
        checkpoints.mark_best(step)
    [first, second] = [line for line in capsys.readouterr().out.splitlines() if "the run goes on" in line]
    assert "step 2 is not saved" in first
    assert "step 3 is not saved" in second
    assert names(disk) == ["latest", "step_000001"]
    assert (checkpoints.saved, checkpoints.num_failed, checkpoints.best()) == (1, 2, None)
    with pytest.raises(NotSaved, match=r"its last step, 3, is not saved: make room, and continue from step 1"):
        checkpoints.finish_last(3)
    filling.unlink()
    save(checkpoints, 4)
    checkpoints.finish_last(4)
    assert names(disk) == ["latest", "step_000001", "step_000004"]
    check_step(checkpoints, 4)


def test_none_is_begun_without_room(disk: Path) -> None:
    """Catches hours of writing that can only fail, and a checkpoint that is refused although it would fit."""
    checkpoints = make_checkpoints(disk, "stop", SIZE)
    fill(disk, SIZE - 8192)
    begun = []
    with pytest.raises(NotSaved, match=r"step 1 is not saved: it takes 0\.0003 GiB; 0\.0003 GiB are free there"):
        checkpoints.save(TrainerState(1, 1, {}), begun.append, lambda: True)
    assert begun == []
    fill(disk, 2 * SIZE)
    save(checkpoints, 1)
    check_step(checkpoints, 1)


@pytest.mark.parametrize("pages", [2, 3])
def test_a_disk_that_is_full_to_the_last_page(disk: Path, pages: int) -> None:
    """Catches a checkpoint that is complete, and counts as lost since there is no room for the name of the newest: the
    older one, and with it the full disk, would stay."""
    checkpoints = Checkpoints(disk / "checkpoints", CheckpointConfig(keep=1), timeout_seconds=60)
    save(checkpoints, 1)
    # A page each for trainer.json, checksums.json and the name; folders take none on this disk.
    fill(disk, SIZE + pages * 4096)
    if pages == 3:
        save(checkpoints, 2)
    else:
        with pytest.raises(NotSaved, match="step 2 is not saved"):
            save(checkpoints, 2)
    assert names(disk) == ["latest", f"step_00000{pages - 1}"]
    assert (disk / "checkpoints/latest").read_text() == f"step_00000{pages - 1}\n"
    check_step(checkpoints, pages - 1)


def test_room_of_a_folder(disk: Path) -> None:
    """Catches the room of another disk, or none, reported for a folder that is not there yet."""
    assert free_bytes(disk / "not/there/yet") == shutil.disk_usage(disk).free < 2**20 + 1
    assert free_bytes(Path("not_there_yet")) == pytest.approx(shutil.disk_usage(".").free, rel=0.1)
    (disk / "nested").mkdir()
    (disk / "nested/file").write_bytes(bytes(5000))
    assert used_bytes(disk) == 5000
    assert used_bytes(disk / "not") == 0
    assert (in_gib(5 * 2**28), in_gib(2**22)) == ("1.25 GiB", "0.0039 GiB")
