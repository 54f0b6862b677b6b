"""Whole runs, driven with fakes: what they leave, how they are stopped and resumed, and what they measure."""

import json
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from openr1.config.train import TrainConfig
from openr1.errors import TrainingError
from openr1.runtime.interrupts import Interrupted, Interrupts
from openr1.tracking.checkpoint import Checkpoints
from openr1.tracking.loggers.client import Loggers
from openr1.tracking.recorder import read_metrics
from openr1.training.evaluation import read_eval_results
from openr1.training.run import Datasets, Run
from openr1.types import Grade, Group, Prompt
from tests.fakes import (
    FakeLoggers,
    FakeRewards,
    FakeRollout,
    FakeStages,
    graded,
    make_config,
    make_prompt,
    make_response,
)
from tests.running import read_jsonl

PROMPTS = [make_prompt(number) for number in range(6)]
HELD_OUT = [make_prompt(number) for number in (7, 8)]


def make_run(
    config: TrainConfig,
    stages: FakeStages,
    interrupts: Interrupts | None = None,
    score: Callable[[Group], list[Grade]] | None = None,
    trackers: Loggers | None = None,
) -> Run:
    """A run over six prompts; held-out ones where the config names some."""
    rewards: Any = FakeRewards(score or graded())
    of_stages: Any = stages
    datasets = Datasets(PROMPTS, HELD_OUT if config.data.held_out is not None else [])
    trackers = trackers or Loggers(config.tracking, config.run, {})
    return Run(config, datasets, of_stages, rewards, trackers, interrupts or Interrupts())


def make_measured(folder: Path, eval_steps: int, **sections: Any) -> TrainConfig:
    """A config with held-out prompts, which are measured on the way."""
    return make_config(folder, data={"held_out": "held_out.jsonl"}, evaluation={"eval_steps": eval_steps}, **sections)


def stop_in_update(config: TrainConfig, update: int, trackers: Loggers | None = None) -> None:
    """A run that gets a signal in its update of this number."""
    interrupts = Interrupts()
    stages = FakeStages()
    stages.policy.during_update = lambda number: signal.raise_signal(signal.SIGTERM) if number == update else None
    with interrupts.installed(), pytest.raises(Interrupted):
        make_run(config, stages, interrupts, trackers=trackers).go(resume=False)


def logged_steps(config: TrainConfig) -> list[float]:
    """The steps in metrics.jsonl."""
    return [row["step"] for row in read_metrics(config.run.folder / "metrics.jsonl")]


def samplings(stages: FakeStages) -> list[tuple[str, float]]:
    """What the engines were asked for, in order: seed stream and temperature."""
    return [(sampling.seed_stream, sampling.temperature) for _, sampling in stages.rollout.requests]


def held_out_by_version(stages: FakeStages, right: Mapping[int, float]) -> Callable[[Group], list[Grade]]:
    """Scores: of held-out responses as `right` says of the weights that the engines hold."""
    others = graded()

    def score(group: Group) -> list[Grade]:
        held_out = group.prompt in HELD_OUT
        return graded(default=[right[stages.policy.pushes[-1]]] * 2)(group) if held_out else others(group)

    return score


# Records, interrupts, resuming


def test_run_writes_everything(tmp_path: Path) -> None:
    """Catches a last step that is not saved, and a first rollout by engines that nothing was pushed to."""
    config = make_config(tmp_path, checkpoint={"save_steps": 2, "keep": 5})
    stages = FakeStages()
    make_run(config, stages).go(resume=False)
    folder = config.run.folder
    assert stages.policy.names[0] == "push_weights"
    assert logged_steps(config) == [1, 2, 3]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["latest", "step_000002", "step_000003"]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["steps"], summary["weight_version"]) == (3, 3)


@pytest.mark.parametrize("update", [1, 2, 3])
def test_signal_in_an_update_leaves_its_row(tmp_path: Path, update: int) -> None:
    """Catches a step that is trained and saved, and missing from metrics.jsonl and rollouts for ever."""
    config = make_config(tmp_path)
    stop_in_update(config, update)
    assert logged_steps(config) == list(range(1, update + 1))
    assert (config.run.folder / f"rollouts/step_00000{update}.jsonl").exists()


@pytest.mark.parametrize("update", [1, 2])
def test_run_stopped_by_a_signal_goes_on(tmp_path: Path, update: int) -> None:
    """Catches a step that is made twice or not at all, or prompts that are taken twice."""
    config = make_config(tmp_path)
    stop_in_update(config, update)
    stages = FakeStages()
    make_run(config, stages).go(resume=True)
    assert stages.policy.names[:2] == ["load", "push_weights"]
    assert stages.policy.pushes == list(range(update, 4))
    assert logged_steps(config) == [1, 2, 3]
    whole = FakeStages()
    make_run(make_config(tmp_path / "whole"), whole).go(resume=False)
    assert stages.rollout.requests == whole.rollout.requests[update:]


def test_run_stopped_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    """Catches a run folder that can neither be resumed nor be used again."""
    config = make_config(tmp_path)
    with pytest.raises(Interrupted):
        make_run(config, FakeStages(FakeRollout(interrupt_after=1))).go(resume=False)
    assert not (config.run.folder / "checkpoints").exists()
    stages = FakeStages()
    make_run(config, stages).go(resume=True)
    assert stages.policy.pushes == [0, 1, 2, 3]
    assert logged_steps(config) == [1, 2, 3]


def test_ledger_of_a_resumed_run(tmp_path: Path) -> None:
    """Catches pass rates that count a visit twice or not at all, and all rollouts read again at every resume."""
    config = make_config(tmp_path)
    stop_in_update(config, 2)
    # Unreadable, as a stand-in for too many to be read.
    (config.run.folder / "rollouts/step_000001.jsonl").write_text("-\n")
    make_run(config, FakeStages()).go(resume=True)
    whole = make_config(tmp_path / "whole")
    make_run(whole, FakeStages()).go(resume=False)
    ledgers = [read_jsonl(folder / "pass_rates.jsonl") for folder in (config.run.folder, whole.run.folder)]
    assert ledgers[0] == ledgers[1]
    assert sum(row["attempts"] for row in ledgers[0]) == 3 * 4


# Held-out prompts


@pytest.mark.parametrize("eval_steps", [0, 1, 2])
def test_held_out_prompts_are_sampled_once_a_step(tmp_path: Path, eval_steps: int) -> None:
    """Catches a last step that is measured on the way and again at the end, and one that is not measured whole."""
    config = make_measured(tmp_path, eval_steps, num_steps=2)
    stages, trackers = FakeStages(), FakeLoggers(config)
    make_run(config, stages, trackers=trackers).go(resume=False)
    whole = [("eval", 1.0), ("eval", 0.0)]
    on_the_way = [("eval", 1.0)] if eval_steps == 1 else []
    assert samplings(stages) == [*whole, ("train/0", 1.0), *on_the_way, ("train/1", 1.0), *whole]
    assert [row["step"] for row in trackers.rows if "eval/accuracy" in row] == {0: [], 1: [1, 2], 2: [2]}[eval_steps]
    summary = json.loads((config.run.folder / "summary.json").read_text())
    assert (summary["accuracy_after"], summary["greedy_after"]) == (0.5, 0.5)
    # The same accuracy at each step: the first one stays.
    best = Checkpoints(config.run.folder / "checkpoints", 2).best()
    assert best == {0: None, 1: 1, 2: 2}[eval_steps]


def test_the_last_step_can_be_the_best(tmp_path: Path) -> None:
    """Catches a last step that is measured without being compared with the best before it."""
    config = make_measured(tmp_path, 1, checkpoint={"save_steps": 0, "keep": 1})
    stages = FakeStages()
    score = held_out_by_version(stages, {0: 0.0, 1: 0.5, 2: 0.0, 3: 1.0})
    make_run(config, stages, score=score).go(resume=False)
    assert Checkpoints(config.run.folder / "checkpoints", 1).best() == 3


def test_measurements_of_steps_that_are_made_again(tmp_path: Path) -> None:
    """Catches a summary that takes its accuracy from a step of before a crash, which was then made again."""
    config = make_measured(tmp_path, 0)
    stop_in_update(config, 2)
    measured = config.run.folder / "eval"
    (measured / "step_000003.json").write_text((measured / "step_000000.json").read_text())
    stages = FakeStages()
    make_run(config, stages, score=held_out_by_version(stages, {3: 1.0})).go(resume=True)
    summary = json.loads((config.run.folder / "summary.json").read_text())
    assert (summary["accuracy_before"], summary["accuracy_after"]) == (0.5, 1.0)


def test_best_checkpoint_whose_measurement_is_gone(tmp_path: Path) -> None:
    """Catches a traceback where a user removed a file of eval/, and a step that cannot become the best any more."""
    config = make_measured(tmp_path, 1)
    stop_in_update(config, 2)
    folder = config.run.folder
    assert Checkpoints(folder / "checkpoints", 2).best() == 1
    (folder / "eval/step_000001.json").unlink()
    stages = FakeStages()
    score = held_out_by_version(stages, {2: 0.25, 3: 0.0})
    make_run(config, stages, score=score).go(resume=True)
    assert Checkpoints(folder / "checkpoints", 2).best() == 2


def test_allowed_failures_of_held_out_responses(tmp_path: Path) -> None:
    """Catches a limit that holds for training alone: one item that cannot be graded would end a run of days."""
    score = graded({"p7": [1.0, None]})
    config = make_measured(tmp_path, 0, reward={"max_failed_fraction": 0.25})
    make_run(config, FakeStages(), score=score).go(resume=False)
    measured = read_eval_results(config.run.folder / "eval/step_000003.json")
    assert [measured[kind].num_failed for kind in ("sampled", "greedy")] == [1, 1]
    strict = make_measured(tmp_path / "strict", 0)
    with pytest.raises(TrainingError, match=re.escape("reward.max_failed_fraction 0 allows")):
        make_run(strict, FakeStages(), score=score).go(resume=False)


# Loggers


@pytest.mark.parametrize("update", [1, 2, 3])
def test_trackers_get_the_step_of_a_signal(tmp_path: Path, update: int) -> None:
    """Catches a step that metrics.jsonl has and the trackers never get: the resumed run does not make it again."""
    config = make_config(tmp_path)
    trackers = FakeLoggers(config)
    stop_in_update(config, update, trackers)
    assert trackers.rows == read_metrics(config.run.folder / "metrics.jsonl")
    # Rollouts of two prompts.
    assert trackers.num_rollouts == [4] * update


def test_trackers_get_the_step_whose_measurement_is_stopped(tmp_path: Path) -> None:
    """Catches a step that is lost to the trackers, or handed over twice, when its evaluation does not end."""
    config = make_measured(tmp_path, 2)
    trackers, stages = FakeLoggers(config), FakeStages()

    def stop(group: Group) -> list[Grade]:
        if group.prompt in HELD_OUT and stages.policy.pushes[-1] == 2:
            raise Interrupted(signal.SIGINT)
        return graded()(group)

    with pytest.raises(Interrupted):
        make_run(config, stages, score=stop, trackers=trackers).go(resume=False)
    assert [row["step"] for row in trackers.rows] == [1, 2]
    assert "eval/accuracy" not in trackers.rows[1]


def test_trackers_do_not_get_a_step_that_is_abandoned(tmp_path: Path) -> None:
    """Catches the step before it, handed over again."""
    config = make_config(tmp_path)
    trackers = FakeLoggers(config)
    rollout = FakeRollout(order=StopsAtSecondCall())
    with pytest.raises(Interrupted):
        make_run(config, FakeStages(rollout), trackers=trackers).go(resume=False)
    assert [row["step"] for row in trackers.rows] == [1]


class StopsAtSecondCall:
    """An order of prompts that gets a signal when it is asked for the second time."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """As they come."""
        self._calls += 1
        if self._calls == 2:
            raise Interrupted(signal.SIGINT)
        return prompts


def test_weights_are_verified_after_the_first_push_and_every_so_many_steps(tmp_path: Path) -> None:
    """Catches engines that are never asked, or asked before the push, and a check that changes what is trained on."""
    config = make_config(tmp_path, rollout={"verify_steps": 2}, num_steps=5)
    stages = FakeStages(single_engines=[FakeRollout(lambda prompt: Group(prompt, (make_response(1, log_prob=-1.0),)))])
    with pytest.raises(TrainingError, match="after the push of step 2, engine 0 and the policy differ by 2 nats"):
        make_run(config, stages).go(resume=False)
    # The fake policy's log-probs are -1 before the first update, and -3 after the second.
    assert stages.policy.names == ["push_weights", "log_probs", *["update", "push_weights"] * 2, "log_probs"]
    assert len(stages.single_engines[0].requests) == 2
