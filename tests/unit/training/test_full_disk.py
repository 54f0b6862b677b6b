"""Runs on disks that are full: what they leave, how they end, and how they go on."""

import errno
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from openr1.config.train import TrainConfig
from openr1.errors import NotSaved, TrainingError
from openr1.runtime.interrupts import Interrupts
from openr1.tracking.recorder import read_metrics
from tests.fakes import FakePolicy, make_config
from tests.small_disk import fill, small_disk
from tests.unit.training.test_run import engine_of_old_weights, make_run, saved_step

SIZE = 300 * 1024
"""Of a checkpoint; the disk holds three."""


@dataclass
class HeavyPolicy(FakePolicy):
    """Whose checkpoints have a size."""

    def save(self, folder: Path) -> None:
        """A file of this size."""
        super().save(folder)
        (folder / "weights.bin").write_bytes(bytes(SIZE))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    with small_disk(tmp_path / "disk", 2**20) as folder:
        yield folder


def put_on(disk: Path, config: TrainConfig, name: str) -> TrainConfig:
    """Make a folder of the run a link to the disk."""
    config.run.folder.mkdir(parents=True)
    (config.run.folder / name).symlink_to(disk)
    return config


def wait_until_published(disk: Path) -> None:
    """Wait until no checkpoint is being written on the disk."""
    deadline = time.monotonic() + 60
    while list(disk.glob("tmp_*")) or list(disk.glob("*.tmp")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def fill_during(disk: Path, update: int, until: int | None = None) -> HeavyPolicy:
    """A policy during one of whose updates the disk becomes full, until another one."""

    def change(number: int) -> None:
        if number == update:
            wait_until_published(disk)
            fill(disk)
        elif number == until:
            (disk / "filling").unlink()

    return HeavyPolicy(during_update=change)


def recorded(config: TrainConfig, name: str) -> dict[float, float | None]:
    """A metric by step."""
    return {row["step"]: row.get(name) for row in read_metrics(config.run.folder / "metrics.jsonl")}


def test_a_full_disk_for_records(tmp_path: Path, disk: Path) -> None:
    """Catches a step that is lost, though there is room to save it, because there was none for its rollouts; and a
    resumed run that cannot make up for them."""
    config = put_on(disk, make_config(tmp_path, checkpoint={"save_steps": 0}), "rollouts")
    with pytest.raises(OSError, match=r"No space left on device: .*step_000002\.jsonl'") as told:
        make_run(config, fill_during(disk, update=2)).go(resume=False)
    assert told.value.errno == errno.ENOSPC
    assert saved_step(config) == 2
    (disk / "filling").unlink()
    make_run(config).go(resume=True)
    assert list(recorded(config, "reward/mean")) == [1, 2, 3]


def test_a_broken_step_without_records_is_not_saved(tmp_path: Path, disk: Path) -> None:
    """Catches a step that is saved unchecked, because its records failed before its check."""
    sections = {"checkpoint": {"save_steps": 0}, "rollout": {"verify_steps": 2}}
    config = put_on(disk, make_config(tmp_path, **sections), "rollouts")
    with pytest.raises(TrainingError, match="after the push of step 2"):
        make_run(config, fill_during(disk, update=2), engines=[engine_of_old_weights()]).go(resume=False)
    assert saved_step(config) is None


def test_a_full_disk_for_checkpoints_stops_the_run(
    tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a run that goes on unasked, a second try that can only fail, and a checkpoint that is not named."""
    config = put_on(disk, make_config(tmp_path, checkpoint={"save_steps": 1}), "checkpoints")
    with pytest.raises(NotSaved, match=r"step 2 is not saved: .*No space left"):
        make_run(config, fill_during(disk, update=2)).go(resume=False)
    assert saved_step(config) == 1
    printed = capsys.readouterr().out
    assert "checkpoints/step_000001; continue with --resume" in printed
    assert "could not be saved" not in printed
    (disk / "filling").unlink()
    make_run(config, HeavyPolicy()).go(resume=True)
    assert list(recorded(config, "reward/mean")) == [1, 2, 3]
    assert saved_step(config) == 3


def test_a_full_disk_for_checkpoints_is_passed_over(tmp_path: Path, disk: Path) -> None:
    """Catches a save that is not tried again, failures that no metric shows, and one shown before it happens."""
    sections = {"save_steps": 1, "on_failed_save": "continue"}
    config = put_on(disk, make_config(tmp_path, checkpoint=sections, num_steps=5), "checkpoints")
    make_run(config, fill_during(disk, update=2, until=4)).go(resume=False)
    assert recorded(config, "checkpoint/failed") == {1: None, 2: None, 3: 1, 4: 2, 5: 2}
    assert saved_step(config) == 5
    assert (config.run.folder / "summary.json").exists()


def test_the_last_step_must_be_saved(tmp_path: Path, disk: Path) -> None:
    """Catches a run that reports success, and whose model is nowhere."""
    config = make_config(tmp_path, checkpoint={"save_steps": 1, "on_failed_save": "continue"})
    put_on(disk, config, "checkpoints")
    with pytest.raises(NotSaved, match=r"its last step, 3, is not saved: .*continue from step 2 with --resume"):
        make_run(config, fill_during(disk, update=3)).go(resume=False)
    assert not (config.run.folder / "summary.json").exists()
    (disk / "filling").unlink()
    make_run(config, HeavyPolicy()).go(resume=True)
    assert (config.run.folder / "summary.json").exists()


@pytest.mark.parametrize("on_failed_save", ["stop", "continue"])
def test_a_stopped_run_whose_step_is_not_saved(
    tmp_path: Path, disk: Path, on_failed_save: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an interrupted run that says it can be resumed after a step which is lost."""
    config = make_config(tmp_path, checkpoint={"save_steps": 0, "on_failed_save": on_failed_save})
    put_on(disk, config, "checkpoints")
    policy, interrupts = HeavyPolicy(), Interrupts()
    policy.during_update = lambda number: (fill(disk), signal.raise_signal(signal.SIGTERM)) if number == 2 else None
    with interrupts.installed(), pytest.raises(NotSaved, match=r"step.* 2,? is not saved"):
        make_run(config, policy, interrupts=interrupts).go(resume=False)
    printed = capsys.readouterr().out
    assert "stopped after step" not in printed
    assert "there is no checkpoint yet" in printed
