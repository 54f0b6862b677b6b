"""The loop that supervised and preference runs share, with a fake policy: interrupts, rows, checkpoints."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openr1.training.fixed_data_run import Metrics, OfflineRun

from openr1.config.sft import SftConfig
from openr1.runtime.interrupts import Interrupted, Interrupts
from openr1.tracking.loggers.client import Loggers
from tests.fakes import FakeLoggers, FakePolicy
from tests.running import read_jsonl

BATCHES = ["a", "b", "c"]


def make_config(folder: Path) -> SftConfig:
    """A run in `folder / "test"`."""
    values = {"run": {"name": "test", "output_dir": folder}, "model": {"path": "m"}, "data": {"train": "t"}}
    return SftConfig.model_validate(values)


def make_run(config: SftConfig, interrupts: Interrupts, trackers: Loggers | None = None) -> OfflineRun:
    """A run of three updates."""
    config.run.folder.mkdir(parents=True, exist_ok=True)
    policy: Any = FakePolicy()
    return OfflineRun(config, 3, policy, trackers or FakeLoggers(config), interrupts)


def stop_at(wanted: str) -> Callable[[str], Metrics]:
    """An update that gets Ctrl-C in the middle of a batch."""

    def train(batch: str) -> Metrics:
        if batch == wanted:
            os.kill(os.getpid(), signal.SIGINT)
        return {"sft/loss": float(BATCHES.index(batch))}

    return train


@pytest.mark.parametrize("during_update", [True, False])
def test_an_interrupted_run_keeps_its_last_step(during_update: bool, tmp_path: Path) -> None:
    """Catches a step that is trained and saved, and missing from metrics.jsonl or the trackers for ever."""
    config = make_config(tmp_path)
    trackers = FakeLoggers(config)
    interrupts = Interrupts()
    train = stop_at("b") if during_update else stop_at("-")
    measure = None if during_update else StoppedAtSecondCall()
    with interrupts.installed(), pytest.raises(Interrupted):
        make_run(config, interrupts, trackers).go(BATCHES, train, measure, 2, False)
    path = tmp_path / "test/metrics.jsonl"
    assert [(row["step"], row["sft/loss"]) for row in read_jsonl(path)] == [(1, 0.0), (2, 1.0)]
    assert trackers.rows == read_jsonl(path)
    assert (tmp_path / "test/checkpoints/step_000002/trainer.json").is_file()
    assert not (tmp_path / "test/model").exists()
    make_run(config, Interrupts()).go(BATCHES, stop_at("-"), None, 0, True)
    assert [(row["step"], row["sft/loss"]) for row in read_jsonl(path)] == [(1, 0.0), (2, 1.0), (3, 2.0)]
    assert (tmp_path / "test/model").is_dir()


class StoppedAtSecondCall:
    """A measurement that gets Ctrl-C when it is made the second time: after step 2."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self) -> Metrics:
        self._calls += 1
        if self._calls == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return {"eval/loss": 1.0}
