"""Runs over a fixed dataset (SFT, DPO), with a fake policy: interrupts, rows, evaluations, checkpoints."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from openr1.config.sft import SftConfig
from openr1.errors import ConfigError, NotSaved
from openr1.offline.fixed_dataset import FixedDatasetJob, Metrics, count_steps
from openr1.runtime.interrupts import Interrupted, Interrupts
from openr1.tracking.loggers.client import Loggers
from openr1.training.run import Run
from tests.fakes import FakeLoggers, FakePolicy
from tests.running import read_jsonl

ORDER = [[0], [1], [2]]
"""Rows of each step."""


def make_config(folder: Path, **sections: object) -> SftConfig:
    """A run in `folder / "test"`."""
    values = {"run": {"name": "test", "output_dir": folder}, "model": {"path": "m"}, "data": {"train": "t"}}
    return SftConfig.model_validate(values | sections)


def train(rows: list[int]) -> Metrics:
    """An update whose loss is the number of its row."""
    return {"sft/loss": float(rows[0])}


def stop_at(row: int) -> Callable[[list[int]], Metrics]:
    """An update that gets Ctrl-C in the middle of this row."""

    def train_and_stop(rows: list[int]) -> Metrics:
        if rows == [row]:
            os.kill(os.getpid(), signal.SIGINT)
        return train(rows)

    return train_and_stop


@dataclass
class HeldOut:
    """A held-out loss of 10, 11, 12, ...; Ctrl-C comes in the call of the number `stop_in`."""

    stop_in: int | None = None
    calls: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        """The next loss."""
        self.calls.append(10.0 + len(self.calls))
        if len(self.calls) == self.stop_in:
            os.kill(os.getpid(), signal.SIGINT)
        return self.calls[-1]


def make_run(
    config: SftConfig,
    train_rows: Callable[[list[int]], Metrics] = train,
    held_out: HeldOut | None = None,
    *,
    eval_steps: int = 0,
    policy: FakePolicy | None = None,
    loggers: Loggers | None = None,
    interrupts: Interrupts | None = None,
    num_steps: int = 3,
) -> Run:
    """A run of three steps."""
    config.run.folder.mkdir(parents=True, exist_ok=True)
    interrupts, policy = interrupts or Interrupts(), policy or FakePolicy()
    order = iter(ORDER)
    job = FixedDatasetJob(config, num_steps, order, policy, train_rows, held_out, eval_steps, interrupts)
    return Run(config, job, loggers or FakeLoggers(config), interrupts)


def stopped_run(
    config: SftConfig,
    train_rows: Callable[[list[int]], Metrics] = train,
    held_out: HeldOut | None = None,
    *,
    loggers: Loggers | None = None,
) -> None:
    """A run that gets Ctrl-C; held-out rows are evaluated every two steps."""
    interrupts = Interrupts()
    run = make_run(config, train_rows, held_out, eval_steps=2, interrupts=interrupts, loggers=loggers)
    with interrupts.installed(), pytest.raises(Interrupted):
        run.go(resume=False)


def losses(config: SftConfig) -> list[tuple[int, float]]:
    """Steps and losses in metrics.jsonl."""
    return [(row["step"], row["sft/loss"]) for row in read_jsonl(config.run.folder / "metrics.jsonl")]


def held_out_losses(config: SftConfig) -> dict[int, float]:
    """Held-out losses in metrics.jsonl, by step."""
    rows = read_jsonl(config.run.folder / "metrics.jsonl")
    return {row["step"]: row["eval/loss"] for row in rows if "eval/loss" in row}


@pytest.mark.parametrize("during_update", [True, False])
def test_an_interrupted_run_keeps_its_last_step(during_update: bool, tmp_path: Path) -> None:
    """Catches a step that is trained and saved, and missing from metrics.jsonl or the loggers for ever."""
    config = make_config(tmp_path)
    loggers = FakeLoggers(config)
    # The second evaluation is that after step 2.
    stopped_run(config, stop_at(1) if during_update else train, None if during_update else HeldOut(2), loggers=loggers)
    assert losses(config) == [(1, 0.0), (2, 1.0)]
    assert loggers.rows == read_jsonl(config.run.folder / "metrics.jsonl")
    assert (config.run.folder / "checkpoints/step_000002/trainer.json").is_file()
    assert not (config.run.folder / "model").exists()
    policy = FakePolicy()
    make_run(config, policy=policy).go(resume=True)
    assert policy.calls[0] == ("load", config.run.folder / "checkpoints/step_000002/policy")
    assert losses(config) == [(1, 0.0), (2, 1.0), (3, 2.0)]
    assert (config.run.folder / "model").is_dir()


@pytest.mark.parametrize(
    ("eval_steps", "expected"), [(0, {3: 11.0}), (1, {1: 11.0, 2: 12.0, 3: 13.0}), (2, {2: 11.0, 3: 12.0})]
)
def test_evaluated_steps_have_the_loss_in_their_row(
    eval_steps: int, expected: dict[int, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a loss in another step's row, loggers without it, and a last step evaluated twice or not at all."""
    config = make_config(tmp_path)
    loggers, held_out = FakeLoggers(config), HeldOut()
    make_run(config, held_out=held_out, eval_steps=eval_steps, loggers=loggers).go(resume=False)
    assert held_out_losses(config) == expected
    assert len(held_out.calls) == 1 + len(expected)
    assert loggers.rows == read_jsonl(config.run.folder / "metrics.jsonl")
    # The untrained model's is in no row.
    assert "before the first step: eval/loss 10.000" in capsys.readouterr().out


def test_evaluation_that_a_signal_stopped_is_made_up_for(tmp_path: Path) -> None:
    """Catches a step whose held-out loss is missing for ever, and the untrained model's evaluated again on resuming."""
    config = make_config(tmp_path)
    stopped_run(config, held_out=HeldOut(2))
    assert held_out_losses(config) == {}
    held_out = HeldOut()
    make_run(config, held_out=held_out, eval_steps=2).go(resume=True)
    assert held_out_losses(config) == {2: 10.0, 3: 11.0}
    assert len(held_out.calls) == 2


def test_a_step_is_recorded_before_it_is_saved(tmp_path: Path) -> None:
    """Catches a kill between checkpoint and row, after which the run goes on past a step that has no row."""
    config = make_config(tmp_path, checkpoint={"save_steps": 1, "keep": 1})
    seen: list[list[tuple[int, float]]] = []

    class Watching(FakePolicy):
        """Looks at metrics.jsonl when it is saved."""

        def save(self, folder: Path) -> None:
            """An empty folder."""
            seen.append(losses(config))
            super().save(folder)

    make_run(config, policy=Watching()).go(resume=False)
    assert seen == [[(1, 0.0)], [(1, 0.0), (2, 1.0)], [(1, 0.0), (2, 1.0), (3, 2.0)]]


@pytest.mark.parametrize(("save_steps", "kept"), [(0, [3]), (1, [1, 2, 3]), (2, [2, 3])])
def test_steps_that_are_saved(save_steps: int, kept: list[int], tmp_path: Path) -> None:
    """Catches a last step that is not saved, and checkpoints at other steps than asked for."""
    config = make_config(tmp_path, checkpoint={"save_steps": save_steps, "keep": 9})
    make_run(config).go(resume=False)
    folders = sorted(path.name for path in (config.run.folder / "checkpoints").glob("step_*"))
    assert folders == [f"step_00000{step}" for step in kept]


def test_an_export_that_fails_is_made_up_for(tmp_path: Path) -> None:
    """Catches a part of a model that counts as the model of a finished run: there would be no way to get all of it."""
    config = make_config(tmp_path)

    class OnFullDisk(FakePolicy):
        """Whose last export finds no room, after a part of it."""

        def is_written(self) -> bool:
            """Not the model of the run."""
            if (config.run.folder / "tmp_model").exists():
                raise NotSaved("model could not be written: No space left on device")
            return True

    with pytest.raises(NotSaved, match="No space left"):
        make_run(config, policy=OnFullDisk()).go(resume=False)
    assert not (config.run.folder / "model").exists()
    make_run(config).go(resume=True)
    assert sorted(path.name for path in config.run.folder.glob("*model")) == ["model"]


def test_a_run_made_longer_has_the_model_of_its_end(tmp_path: Path) -> None:
    """Catches the model of the old end in the way of the new one, and one that passes for it after a failed export."""
    config = make_config(tmp_path)
    model = config.run.folder / "model/num_updates"
    make_run(config, num_steps=1).go(resume=False)
    assert model.read_text() == "0"  # `train` updates nothing.

    class Unwritten(FakePolicy):
        """Whose model is not written."""

        def export(self, folder: Path) -> None:
            """Not outside checkpoints."""
            if folder.name == "tmp_model":
                raise NotSaved("no room")
            super().export(folder)

    with pytest.raises(NotSaved, match="no room"):
        make_run(config, policy=Unwritten()).go(resume=True)
    assert not model.exists()
    policy = FakePolicy()
    policy.calls.append(("update", None))
    make_run(config, policy=policy).go(resume=True)
    assert model.read_text() == "1"


def test_complete_run_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a finished run that trains on, and one that was killed before its export and cannot make up for it."""
    config = make_config(tmp_path)
    make_run(config, held_out=HeldOut()).go(resume=False)
    with pytest.raises(ConfigError, match=r"all 3 steps are done; raise --max_epochs or --max_steps to go on"):
        make_run(config).go(resume=True)
    shutil.rmtree(config.run.folder / "model")
    capsys.readouterr()
    policy, held_out = FakePolicy(), HeldOut()
    make_run(config, held_out=held_out, policy=policy).go(resume=True)
    assert (config.run.folder / "model").is_dir()
    assert (policy.names, held_out.calls) == (["load"], [])
    assert losses(config) == [(1, 0.0), (2, 1.0), (3, 2.0)]
    # The last line tells the last step's losses, though another process made it.
    assert "after 3 updates: sft/loss 2.000, eval/loss 11.000" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="all 2 steps are done"):
        make_run(config, num_steps=2).go(resume=True)


@pytest.mark.parametrize(("num_rows", "size", "epochs", "steps"), [(4, 2, 1, 2), (5, 2, 3, 9), (1, 8, 2, 2)])
def test_number_of_steps(num_rows: int, size: int, epochs: int, steps: int, tmp_path: Path) -> None:
    """Catches a schedule that ends early or late, because an epoch's last batch is not counted."""
    # 4 / 2 = 2; ceil(5 / 2) * 3 = 9; ceil(1 / 8) * 2 = 2.
    sections = {"policy": {"train_batch_size": size}, "max_epochs": epochs}
    assert count_steps(make_config(tmp_path, **sections), num_rows) == steps
    assert count_steps(make_config(tmp_path, **sections, max_steps=3), num_rows) == min(steps, 3)
