"""Whole runs, driven with fakes: what they leave, how they are stopped and resumed, and what they evaluate."""

import json
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from ray.exceptions import OutOfDiskError

from openr1.actors.rl import train_demand
from openr1.config.sections import CheckpointConfig
from openr1.config.train import TrainConfig
from openr1.errors import (
    ActorLost,
    ConfigError,
    DatasetExhausted,
    OpenR1Error,
    PolicyError,
    RewardServerUnavailable,
    TrainingError,
    WeightSyncError,
)
from openr1.inputs.datasets import Datasets
from openr1.runtime.interrupts import Interrupted, Interrupts
from openr1.tracking.checkpoint import Checkpoints
from openr1.tracking.eval_results import read_eval_results
from openr1.tracking.loggers.client import Loggers
from openr1.tracking.recorder import read_metrics
from openr1.training.rl import RLJob
from openr1.training.run import Run
from openr1.types import Grade, Group, Prompt, WeightVersion
from tests.fakes import (
    FakeLoggers,
    FakePolicy,
    FakeRewards,
    FakeRollout,
    graded,
    make_config,
    make_prompt,
    make_response,
    make_stages,
)
from tests.running import read_jsonl

PROMPTS = [make_prompt(number) for number in range(6)]
HELD_OUT = [make_prompt(number) for number in (7, 8)]


def make_run(
    config: TrainConfig,
    policy: FakePolicy | None = None,
    rollout: FakeRollout | None = None,
    *,
    score: Callable[[Group], list[Grade]] | None = None,
    engines: Sequence[FakeRollout] = (),
    interrupts: Interrupts | None = None,
    loggers: Loggers | None = None,
) -> Run:
    """A run over six prompts; held-out ones where the config names some."""
    interrupts = interrupts or Interrupts()
    stages = make_stages(
        config,
        policy=policy or FakePolicy(),
        rollout=rollout or FakeRollout(),
        rewards=FakeRewards(score or graded()),
        per_engine_rollouts=engines,
        interrupts=interrupts,
    )
    job = RLJob(config, Datasets(PROMPTS, HELD_OUT if config.data.held_out is not None else []), stages)
    return Run(config, job, loggers or Loggers(config.tracking, config.run, {}), interrupts)


def make_evaluated(folder: Path, eval_steps: int, **sections: object) -> TrainConfig:
    """A config with held-out prompts, which are evaluated every `eval_steps` steps."""
    return make_config(folder, data={"held_out": "held_out.jsonl"}, evaluation={"eval_steps": eval_steps}, **sections)


def stop_in_update(config: TrainConfig, update: int, loggers: Loggers | None = None) -> None:
    """A run that gets a signal in its update of this number."""
    policy, interrupts = FakePolicy(), Interrupts()
    policy.during_update = lambda number: signal.raise_signal(signal.SIGTERM) if number == update else None
    with interrupts.installed(), pytest.raises(Interrupted):
        make_run(config, policy, interrupts=interrupts, loggers=loggers).go(resume=False)


def metrics_of(config: TrainConfig) -> list[dict[str, float]]:
    """The rows of metrics.jsonl."""
    return read_metrics(config.run.folder / "metrics.jsonl")


def recorded_steps(config: TrainConfig) -> list[float]:
    """The steps in metrics.jsonl."""
    return [row["step"] for row in metrics_of(config)]


def evaluated_steps(rows: Sequence[Mapping[str, float]]) -> dict[float, float]:
    """Held-out accuracy by step, of rows that have one."""
    return {row["step"]: row["eval/accuracy"] for row in rows if "eval/accuracy" in row}


def samplings(rollout: FakeRollout) -> list[tuple[str, float]]:
    """What the engines were asked for, in order: seed stream and temperature."""
    return [(sampling.seed_stream, sampling.temperature) for _, sampling in rollout.requests]


def held_out_by_version(policy: FakePolicy, right: Mapping[int, float]) -> Callable[[Group], list[Grade]]:
    """Scores: of held-out responses as `right` says of the weights that the engines hold."""
    others = graded()

    def score(group: Group) -> list[Grade]:
        held_out = group.prompt in HELD_OUT
        return graded(default=[right[policy.pushes[-1]]] * 2)(group) if held_out else others(group)

    return score


def engine_of_old_weights() -> FakeRollout:
    """Samples with log-prob -1: the fake policy's before the first update; after the second one that has -3."""
    return FakeRollout(lambda prompt: Group(prompt, (make_response(1, log_prob=-1.0),)))


def stop_evaluation_of(policy: FakePolicy, version: int) -> Callable[[Group], list[Grade]]:
    """Scores, and a signal while held-out responses of these weights are scored."""

    def score(group: Group) -> list[Grade]:
        if group.prompt in HELD_OUT and policy.pushes[-1] == version:
            raise Interrupted(signal.SIGINT)
        return graded()(group)

    return score


@dataclass
class StopsAtCall:
    """An order of prompts that gets a signal when it is asked for the n-th time."""

    number: int
    calls: int = 0

    def __call__(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """As they come."""
        self.calls += 1
        if self.calls == self.number:
            raise Interrupted(signal.SIGINT)
        return prompts


# Records, interrupts, resuming


def test_run_writes_everything(tmp_path: Path) -> None:
    """Catches a last step that is not saved, and a first rollout by engines that nothing was pushed to."""
    config = make_config(tmp_path, checkpoint={"save_steps": 2, "keep": 5})
    policy = FakePolicy()
    make_run(config, policy).go(resume=False)
    folder = config.run.folder
    assert policy.names[0] == "push_weights"
    assert recorded_steps(config) == [1, 2, 3]
    assert sorted(path.name for path in (folder / "rollouts").iterdir()) == [
        f"step_00000{step}.jsonl" for step in (1, 2, 3)
    ]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["latest", "step_000002", "step_000003"]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["steps"], summary["weight_version"]) == (3, 3)


@pytest.mark.parametrize("update", [1, 2, 3])
def test_signal_in_an_update_leaves_its_row(tmp_path: Path, update: int) -> None:
    """Catches a step that is trained and saved, and missing from metrics.jsonl and rollouts for ever."""
    config = make_config(tmp_path)
    stop_in_update(config, update)
    assert recorded_steps(config) == list(range(1, update + 1))
    assert (config.run.folder / f"rollouts/step_00000{update}.jsonl").exists()
    assert (config.run.folder / f"checkpoints/step_00000{update}/trainer.json").exists()


@pytest.mark.parametrize("update", [1, 2])
def test_run_stopped_by_a_signal_goes_on(tmp_path: Path, update: int) -> None:
    """Catches a step that is made twice or not at all, or prompts that are taken twice."""
    config = make_config(tmp_path)
    stop_in_update(config, update)
    policy, rollout = FakePolicy(), FakeRollout()
    make_run(config, policy, rollout).go(resume=True)
    assert policy.names[:2] == ["load", "push_weights"]
    assert policy.pushes == list(range(update, 4))
    assert recorded_steps(config) == [1, 2, 3]
    whole = FakeRollout()
    make_run(make_config(tmp_path / "whole"), rollout=whole).go(resume=False)
    assert rollout.requests == whole.requests[update:]


def test_run_stopped_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    """Catches a run folder that can neither be resumed nor be used again."""
    config = make_config(tmp_path)
    with pytest.raises(Interrupted):
        make_run(config, rollout=FakeRollout(interrupt_after=1)).go(resume=False)
    assert not (config.run.folder / "checkpoints").exists()
    policy = FakePolicy()
    make_run(config, policy).go(resume=True)
    assert policy.pushes == [0, 1, 2, 3]
    assert recorded_steps(config) == [1, 2, 3]


def test_a_summary_is_that_of_all_steps(tmp_path: Path) -> None:
    """Catches a run made longer and killed before its end, whose old summary passes for that of all its steps."""
    config = make_config(tmp_path)
    summary = config.run.folder / "summary.json"
    make_run(config).go(resume=False)
    longer, policy = make_config(tmp_path, num_steps=4), FakePolicy()

    def fail(number: int) -> None:
        raise PolicyError("lost")

    policy.during_update = fail
    with pytest.raises(PolicyError, match="lost"):
        make_run(longer, policy).go(resume=True)
    assert not summary.exists()
    make_run(longer).go(resume=True)
    assert json.loads(summary.read_text())["steps"] == 4


def test_complete_run_is_not_resumed(tmp_path: Path) -> None:
    """Catches a finished run that is begun again, one without its summary that cannot finish, and steps beyond the end.

    A run that was killed between its last step and its summary makes up for the summary alone.
    """
    config = make_config(tmp_path)
    make_run(config).go(resume=False)
    with pytest.raises(ConfigError, match=r"all 3 steps are done; raise --num_steps to go on"):
        make_run(config).go(resume=True)
    summary = config.run.folder / "summary.json"
    summary.unlink()
    policy = FakePolicy()
    make_run(config, policy).go(resume=True)
    assert summary.exists()
    assert (policy.updates, recorded_steps(config)) == ([], [1, 2, 3])
    summary.unlink()
    with pytest.raises(ConfigError, match=r"all 2 steps are done"):
        make_run(make_config(tmp_path, num_steps=2)).go(resume=True)


def test_exhausted_dataset_leaves_a_checkpoint(tmp_path: Path) -> None:
    """Catches all the steps since the last checkpoint lost, because the run ended for want of unsolved prompts."""
    config = make_config(tmp_path, data={"max_pass_rate": 0.5}, checkpoint={"save_steps": 0}, num_steps=9)
    with pytest.raises(DatasetExhausted):
        # Every prompt is solved at its first visit: the six are enough for three steps of two.
        make_run(config, score=graded(default=[1.0, 1.0])).go(resume=False)
    newest = Checkpoints(config.run.folder / "checkpoints", CheckpointConfig(keep=2), timeout_seconds=60).newest()
    assert newest is not None
    assert newest[1].step == 3
    assert recorded_steps(config) == [1, 2, 3]


def fails_at(step: int, error: OpenR1Error) -> Callable[[Group], list[Grade]]:
    """Scores until the first group of a step, of which there are two a step, cannot be graded."""
    grades, asked = graded(), count(1)

    def score(group: Group) -> list[Grade]:
        if next(asked) > 2 * (step - 1):
            raise error
        return grades(group)

    return score


def saved_step(config: TrainConfig) -> int | None:
    """The step of the newest checkpoint."""
    newest = Checkpoints(config.run.folder / "checkpoints", CheckpointConfig(keep=2), timeout_seconds=60).newest()
    return None if newest is None else newest[1].step


@pytest.mark.parametrize("error", [RewardServerUnavailable("no answer"), ActorLost("engine 0 died")])
def test_error_before_an_update_leaves_a_checkpoint(
    tmp_path: Path, error: OpenR1Error, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches steps that are lost with a reward server or an engine, though the policy that made them is well."""
    config = make_config(tmp_path, checkpoint={"save_steps": 0}, num_steps=9)
    with pytest.raises(type(error)):
        make_run(config, score=fails_at(3, error)).go(resume=False)
    assert (saved_step(config), recorded_steps(config)) == (2, [1, 2])
    assert "checkpoints/step_000002; continue with --resume" in "".join(capsys.readouterr().out.split("\n"))
    make_run(config.model_copy(update={"num_steps": 4})).go(resume=True)
    assert recorded_steps(config) == [1, 2, 3, 4]


def test_trouble_of_ray_itself_leaves_a_checkpoint(tmp_path: Path) -> None:
    """Catches a traceback of Ray's, and lost steps, where its object store is full in a step that samples."""
    config = make_config(tmp_path, checkpoint={"save_steps": 0}, num_steps=9)
    full = OutOfDiskError("the local object store is full\nTip: ...")
    with pytest.raises(TrainingError, match=r"^Ray: .*the local object store is full Tip: "):
        make_run(config, score=fails_at(3, full)).go(resume=False)
    assert (saved_step(config), recorded_steps(config)) == (2, [1, 2])


@pytest.mark.parametrize("during", ["update", "push"])
def test_error_in_an_update_leaves_none(tmp_path: Path, during: str) -> None:
    """Catches weights of half a step that are saved as those of the one before."""
    config = make_config(tmp_path, checkpoint={"save_steps": 0}, num_steps=9)

    class Failing(FakePolicy):
        def push_weights(self, version: WeightVersion) -> None:
            if during == "push" and version == 3:
                raise WeightSyncError("no engine answers")
            super().push_weights(version)

    def fail(number: int) -> None:
        if during == "update" and number == 3:
            raise PolicyError("the gradient norm is inf")

    with pytest.raises((PolicyError, WeightSyncError)):
        make_run(config, Failing(during_update=fail)).go(resume=False)
    assert saved_step(config) is None


def test_the_error_is_told_where_nothing_can_be_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches the reason for the end of a run, replaced by that of a policy that is gone, too."""
    config = make_config(tmp_path, checkpoint={"save_steps": 0}, num_steps=9)

    class Gone(FakePolicy):
        def save(self, folder: Path) -> None:
            raise ActorLost("policy rank 0 died")

    with pytest.raises(RewardServerUnavailable, match="no answer"):
        make_run(config, Gone(), score=fails_at(2, RewardServerUnavailable("no answer"))).go(resume=False)
    assert "step 1 could not be saved: policy rank 0 died" in capsys.readouterr().out
    assert saved_step(config) is None


def test_a_save_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    """Catches minutes of waiting for ranks that wait for the one whose save failed."""
    config = make_config(tmp_path, checkpoint={"save_steps": 1})
    tried: list[str] = []

    class Failing(FakePolicy):
        def save(self, folder: Path) -> None:
            tried.append(folder.parent.name)
            raise TrainingError("policy rank 0: OSError: No space left on device")

    with pytest.raises(TrainingError, match="No space left"):
        make_run(config, Failing()).go(resume=False)
    assert tried == ["tmp_step_000001"]
    assert saved_step(config) is None


def test_broken_step_is_recorded_and_not_saved(tmp_path: Path) -> None:
    """Catches a check that comes after the checkpoint, so that a resumed run goes on from what is wrong."""
    config = make_config(tmp_path, checkpoint={"save_steps": 1}, rollout={"verify_steps": 2})
    loggers = FakeLoggers(config)
    with pytest.raises(TrainingError, match="after the push of step 2"):
        make_run(config, engines=[engine_of_old_weights()], loggers=loggers).go(resume=False)
    assert recorded_steps(config) == [row["step"] for row in loggers.rows] == [1, 2]
    newest = Checkpoints(config.run.folder / "checkpoints", CheckpointConfig(keep=2), timeout_seconds=60).newest()
    assert newest is not None
    assert newest[1].step == 1


def test_ledger_of_a_resumed_run(tmp_path: Path) -> None:
    """Catches pass rates that count a visit twice or not at all, and all rollouts read again at every resume."""
    config = make_config(tmp_path)
    stop_in_update(config, 2)
    # Unreadable, as a stand-in for too many to be read.
    (config.run.folder / "rollouts/step_000001.jsonl").write_text("-\n")
    make_run(config).go(resume=True)
    whole = make_config(tmp_path / "whole")
    make_run(whole).go(resume=False)
    ledgers = [read_jsonl(folder / "pass_rates.jsonl") for folder in (config.run.folder, whole.run.folder)]
    assert ledgers[0] == ledgers[1]
    assert sum(row["attempts"] for row in ledgers[0]) == 3 * 4


# Held-out prompts


@pytest.mark.parametrize("eval_steps", [0, 1, 2])
def test_held_out_prompts_are_sampled_once_a_step(tmp_path: Path, eval_steps: int) -> None:
    """Catches a last step that is evaluated on the way and again at the end, and one that is not evaluated whole."""
    config = make_evaluated(tmp_path, eval_steps, num_steps=2)
    rollout, loggers = FakeRollout(), FakeLoggers(config)
    make_run(config, rollout=rollout, loggers=loggers).go(resume=False)
    whole = [("eval", 1.0), ("eval", 0.0)]
    on_the_way = [("eval", 1.0)] if eval_steps == 1 else []
    assert samplings(rollout) == [*whole, ("train/0", 1.0), *on_the_way, ("train/1", 1.0), *whole]
    # Of two responses to each prompt one is right.
    evaluated = {0: {}, 1: {1: 0.5, 2: 0.5}, 2: {2: 0.5}}[eval_steps]
    assert evaluated_steps(loggers.rows) == evaluated_steps(metrics_of(config)) == evaluated
    summary = json.loads((config.run.folder / "summary.json").read_text())
    assert (summary["accuracy_after"], summary["greedy_after"]) == (0.5, 0.5)
    # The same accuracy at each step: the first one stays.
    best = Checkpoints(config.run.folder / "checkpoints", CheckpointConfig(keep=2), timeout_seconds=60).best()
    assert best == {0: None, 1: 1, 2: 2}[eval_steps]


def test_the_last_step_can_be_the_best(tmp_path: Path) -> None:
    """Catches a last step that is evaluated without being compared with the best before it."""
    config = make_evaluated(tmp_path, 1, checkpoint={"save_steps": 0, "keep": 1})
    policy = FakePolicy()
    score = held_out_by_version(policy, {0: 0.0, 1: 0.5, 2: 0.0, 3: 1.0})
    make_run(config, policy, score=score).go(resume=False)
    assert Checkpoints(config.run.folder / "checkpoints", CheckpointConfig(keep=1), timeout_seconds=60).best() == 3
    assert evaluated_steps(metrics_of(config)) == {1: 0.5, 2: 0.0, 3: 1.0}


def test_evaluations_of_steps_that_are_made_again(tmp_path: Path) -> None:
    """Catches a summary that takes its accuracy from a step of before a crash, which was then made again."""
    config = make_evaluated(tmp_path, 0)
    stop_in_update(config, 2)
    evaluated = config.run.folder / "eval"
    (evaluated / "step_000003.json").write_text((evaluated / "step_000000.json").read_text())
    policy = FakePolicy()
    make_run(config, policy, score=held_out_by_version(policy, {3: 1.0})).go(resume=True)
    summary = json.loads((config.run.folder / "summary.json").read_text())
    assert (summary["accuracy_before"], summary["accuracy_after"]) == (0.5, 1.0)


def test_best_checkpoint_whose_evaluation_is_gone(tmp_path: Path) -> None:
    """Catches a traceback where a user removed a file of eval/, and a step that cannot become the best any more."""
    config = make_evaluated(tmp_path, 1)
    stop_in_update(config, 2)
    folder = config.run.folder
    assert Checkpoints(folder / "checkpoints", CheckpointConfig(keep=2), timeout_seconds=60).best() == 1
    (folder / "eval/step_000001.json").unlink()
    policy = FakePolicy()
    score = held_out_by_version(policy, {2: 0.25, 3: 0.0})
    make_run(config, policy, score=score).go(resume=True)
    assert Checkpoints(folder / "checkpoints", CheckpointConfig(keep=2), timeout_seconds=60).best() == 2


def test_evaluation_that_a_signal_stopped_is_made_up_for(tmp_path: Path) -> None:
    """Catches a step that stays without its accuracy, in its row, and as a candidate for the best checkpoint."""
    config = make_evaluated(tmp_path, 2, num_steps=5)
    policy = FakePolicy()
    with pytest.raises(Interrupted):
        make_run(config, policy, score=stop_evaluation_of(policy, 2)).go(resume=False)
    assert (recorded_steps(config), evaluated_steps(metrics_of(config))) == ([1, 2], {})
    policy, rollout = FakePolicy(), FakeRollout()
    score = held_out_by_version(policy, {2: 1.0, 4: 0.0, 5: 0.0})
    make_run(config, policy, rollout, score=score).go(resume=True)
    assert evaluated_steps(metrics_of(config)) == {2: 1.0, 4: 0.0}
    assert samplings(rollout)[:2] == [("eval", 1.0), ("train/2", 1.0)]
    assert Checkpoints(config.run.folder / "checkpoints", CheckpointConfig(keep=5), timeout_seconds=60).best() == 2


def test_complete_evaluation_is_not_made_again(tmp_path: Path) -> None:
    """Catches a resumed run that samples held-out prompts which its step has results of, and a row left without them.

    A kill can come between the file of the results and the row.
    """
    config = make_evaluated(tmp_path, 2)
    # Two kinds of evaluation before the first step, two steps, an evaluation; then the third step.
    with pytest.raises(Interrupted):
        make_run(config, rollout=FakeRollout(order=StopsAtCall(6))).go(resume=False)
    rows = metrics_of(config)
    assert evaluated_steps(rows) == {2: 0.5}
    cut = [{name: value for name, value in row.items() if name != "eval/accuracy"} for row in rows]
    (config.run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cut))
    rollout = FakeRollout()
    make_run(config, rollout=rollout).go(resume=True)
    assert samplings(rollout) == [("train/2", 1.0), ("eval", 1.0), ("eval", 0.0)]
    assert evaluated_steps(metrics_of(config)) == {2: 0.5}


def test_allowed_failures_of_held_out_responses(tmp_path: Path) -> None:
    """Catches a limit that holds for training alone: one item that cannot be graded would end a run of days."""
    score = graded({"p7": [1.0, None]})
    config = make_evaluated(tmp_path, 0, reward={"max_failed_fraction": 0.25})
    make_run(config, score=score).go(resume=False)
    results = read_eval_results(config.run.folder / "eval/step_000003.json")
    assert [results[kind].num_failed for kind in ("sampled", "greedy")] == [1, 1]
    strict = make_evaluated(tmp_path / "strict", 0)
    with pytest.raises(TrainingError, match=re.escape("reward.max_failed_fraction 0 allows")):
        make_run(strict, score=score).go(resume=False)


# Loggers


@pytest.mark.parametrize("update", [1, 2, 3])
def test_loggers_get_the_step_of_a_signal(tmp_path: Path, update: int) -> None:
    """Catches a step that metrics.jsonl has and the loggers never get: the resumed run does not make it again."""
    config = make_config(tmp_path)
    loggers = FakeLoggers(config)
    stop_in_update(config, update, loggers)
    assert loggers.rows == metrics_of(config)
    # Rollouts of two prompts.
    assert loggers.num_rollouts == [4] * update


def test_loggers_get_the_step_whose_evaluation_is_stopped(tmp_path: Path) -> None:
    """Catches a step that is lost to the loggers, or handed over twice, when its evaluation does not end."""
    config = make_evaluated(tmp_path, 2)
    loggers, policy = FakeLoggers(config), FakePolicy()
    with pytest.raises(Interrupted):
        make_run(config, policy, score=stop_evaluation_of(policy, 2), loggers=loggers).go(resume=False)
    assert [row["step"] for row in loggers.rows] == [1, 2]
    assert evaluated_steps(loggers.rows) == {}


def test_loggers_do_not_get_a_step_that_is_abandoned(tmp_path: Path) -> None:
    """Catches the step before it, handed over again."""
    config = make_config(tmp_path)
    loggers = FakeLoggers(config)
    rollout = FakeRollout(order=StopsAtCall(2))
    with pytest.raises(Interrupted):
        make_run(config, rollout=rollout, loggers=loggers).go(resume=False)
    assert [row["step"] for row in loggers.rows] == [1]


# Engines


def test_weights_are_verified_after_the_first_push_and_every_so_many_steps(tmp_path: Path) -> None:
    """Catches engines that are never asked, or asked before the push, and a check that changes what is trained on."""
    config = make_config(tmp_path, rollout={"verify_steps": 2}, num_steps=5)
    policy, engine = FakePolicy(), engine_of_old_weights()
    with pytest.raises(TrainingError, match="after the push of step 2, engine 0 and the policy differ by 2 nats"):
        make_run(config, policy, engines=[engine]).go(resume=False)
    assert policy.names == ["push_weights", "log_probs", *["update", "push_weights"] * 2, "log_probs"]
    assert len(engine.requests) == 2


@pytest.mark.parametrize(
    ("replay_from", "engines", "reference"),
    [(None, 4, True), ("rollout", 0, True), ("reward", 0, True), ("advantage", 0, False)],
)
def test_gpus_of_a_replay(tmp_path: Path, replay_from: str | None, engines: int, reference: bool) -> None:
    """Catches a replay that asks for GPUs of engines, or of a reference, which it does not start."""
    debug = {} if replay_from is None else {"replay": "records", "replay_from": replay_from}
    sections = {"policy": {"num_ranks": 2}, "rollout": {"num_engines": 4, "rollout_batch_size": 4}}
    demand = train_demand(make_config(tmp_path, debug=debug, **sections))
    assert (demand.ranks, demand.engines, demand.reference) == (2, engines, reference)


# Checkpoints in the background


@dataclass
class SlowPolicy(FakePolicy):
    """Writes what it saves only when it is asked for the third time; or cannot write it."""

    error: Exception | None = None
    asked: int = 0

    def is_written(self) -> bool:
        """At the third time."""
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.asked % 3 == 0


def test_a_stopped_run_waits_for_its_checkpoint(tmp_path: Path) -> None:
    """Catches an interrupt, and an end, that leave a checkpoint half-written although it only takes a moment."""
    config = make_config(tmp_path, checkpoint={"save_steps": 0, "keep": 9})
    policy, interrupts = SlowPolicy(), Interrupts()
    policy.during_update = lambda number: signal.raise_signal(signal.SIGTERM) if number == 2 else None
    with interrupts.installed(), pytest.raises(Interrupted):
        make_run(config, policy, interrupts=interrupts).go(resume=False)
    folder = config.run.folder / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step_000002"]
    make_run(config, SlowPolicy()).go(resume=True)
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step_000002", "step_000003"]


def test_a_write_that_fails_ends_the_run(tmp_path: Path) -> None:
    """Catches a run that goes on to its end without a checkpoint, and one of which a part is taken for all of it."""
    config = make_config(tmp_path, checkpoint={"save_steps": 1})
    with pytest.raises(TrainingError, match="policy: disk full"):
        make_run(config, SlowPolicy(error=PolicyError("policy: disk full"))).go(resume=False)
    assert recorded_steps(config)[-1] <= 2
    assert [path.name for path in (config.run.folder / "checkpoints").glob("[!t]*")] == []
