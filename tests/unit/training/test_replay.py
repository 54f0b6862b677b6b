"""Steps that are recorded and replayed: the same batch to the last bit, nothing asked that is read, faults told."""

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from openr1.algorithms.batch import TrainBatch
from openr1.config.checks import check_train
from openr1.config.load import to_yaml
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, MissingError, PolicyError, RewardServerUnavailable, TrainingError
from openr1.inputs.datasets import Datasets
from openr1.rollout.experience import Experience
from openr1.tracking.loggers.client import Loggers
from openr1.training.replay import Recording, Replay, read_step, replay_stages, write_step
from openr1.training.rl import RLJob, own_reward_server, ready_rewards, without_repetition
from openr1.training.run import Run
from openr1.training.stages import Stages
from openr1.types import Grade, Group, Prompt, Response, RunningReward, ScoredGroup
from tests.fakes import (
    FakeCritic,
    FakePolicy,
    FakeReference,
    FakeRewards,
    FakeRollout,
    graded,
    make_config,
    make_prompt,
    make_stages,
)
from tests.running import read_jsonl, run_grpo, write_config
from tests.unit.training.test_trainer import trainer_of

PROMPTS = [make_prompt(number) for number in range(6)]
BOUNDARIES = ["rollout", "reward", "advantage"]


class Fakes:
    """One run's stages, and a trainer over them; what is recorded differs from what fakes make by default."""

    def __init__(
        self, config: TrainConfig, debug: Replay | Recording | None = None, prompts: Sequence[Prompt] = PROMPTS
    ) -> None:
        self.rollout = FakeRollout(make=odd_group)
        self.rewards = FakeRewards(graded({"p0": [1.0, 1.0], "p1": [0.3, 0.1], "p2": [None, 1.0], "p3": [0.0, 0.0]}))
        self.reference, self.policy = FakeReference(), FakePolicy()
        self.critic = FakeCritic() if config.has_critic else None
        replay = debug if isinstance(debug, Replay) else None
        stages = make_stages(
            config,
            rollout=self.rollout,
            rewards=replay if replay is not None and config.debug.reads("reward") else self.rewards,
            # As in `run_training`: what is read needs no reference.
            reference=self.reference if config.has_reference and not config.debug.reads("advantage") else None,
            policy=self.policy,
            critic=self.critic,
        )
        recording = debug if isinstance(debug, Recording) else None
        self.stages: Stages = replay_stages(stages, replay, recording, config.debug.rollout_only)
        self.trainer = trainer_of(without_repetition(config), self.stages, prompts)


def odd_group(prompt: Prompt) -> Group:
    """Two responses whose log-probs have no short decimal form: one with an inserted token, and a truncated one."""
    number = prompt.token_ids[0]
    log_probs = (-0.1 / number, 0.0, -0.3 / number)
    first = Response("a", (5, 6, number), log_probs, (True, False, True), "stop", 0, 0)
    return Group(prompt, (first, Response("b", (7,), (-1 / 3,), (True,), "length", 0, 0)))


def make_debug(folder: Path, replay_from: str | None = None, **sections: Any) -> TrainConfig:
    """A config that records, or replays, `folder / "records"`; no response may fail too often."""
    path = str(folder / "records")
    debug = {"record": path} if replay_from is None else {"replay": path, "replay_from": replay_from}
    return make_config(folder, debug=debug, reward={"max_failed_fraction": 0.5}, **sections)


def record(folder: Path, steps: int = 3, **sections: Any) -> Fakes:
    """Make recorded steps."""
    config = make_debug(folder, **sections)
    fakes = Fakes(config, Recording(config, folder / "records", resume=False))
    for _ in range(steps):
        fakes.trainer.step()
    return fakes


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """For the block, the system refuses to write files of this process beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def replay(folder: Path, replay_from: str, **sections: Any) -> Fakes:
    """Replay all recorded steps."""
    config = make_debug(folder, replay_from, **sections)
    fakes = Fakes(config, Replay(config, folder / "records", resume=False))
    for _ in range(config.num_steps):
        fakes.trainer.step()
    return fakes


def same_bits(one: TrainBatch, other: TrainBatch) -> bool:
    """Whether two batches are equal in all tensors, dtypes included."""
    tensors = [{name: tensor for name, tensor in vars(batch).items() if tensor is not None} for batch in (one, other)]
    first, second = tensors
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


# What is read is what was written


def test_a_record_is_exact(tmp_path: Path) -> None:
    """Catches floats that are rounded on the way, text that is cut at strange line ends, and fields that are lost."""
    prompt = make_prompt(text="1\u2028\x85\n\u00e9", prefix="<think>", meta={"level": [1, None], "x": 0.1})
    responses = (
        Response("\u4e2d\r", (3, 4, 5), (-0.1 - 0.2, 0.0, -1.17549435e-38), (True, False, True), "stop", 4, 5).packed(),
        Response("", (9,), (float("-inf"),), (True,), "length", 4, 4).packed(),
    )
    grades = (Grade(1 / 3, 1.0, {"format": 0.1}, "correct"), Grade(None, None, {}, "error", "it broke"))
    scored, dropped = (ScoredGroup(Group(one, responses), grades) for one in (prompt, make_prompt(1)))
    batch = TrainBatch.from_groups([scored.group]).with_advantages(torch.tensor([1 / 3, -0.7]))
    # Two names of one tensor, which the format does not take as they are.
    batch = replace(batch, values=batch.advantages, returns=batch.advantages)
    rewards, advantages = torch.tensor([[0.1, 0.7]]), torch.tensor([[1 / 3, -0.7]])
    experience = Experience(
        step=12,
        scored=[scored],
        dropped=[dropped],
        batch=batch,
        prompts={},
        rewards=rewards,
        valid=torch.tensor([[True, False]]),
        advantages=advantages,
        running_reward=RunningReward(0.1, 0.7),
    )
    write_step(tmp_path, experience)
    read = read_step(tmp_path, 12)
    assert read.scored == {"p0": scored, "p1": dropped}
    assert same_bits(read.batch, batch)
    assert torch.equal(read.shaped, rewards)
    assert torch.equal(read.advantages, advantages)
    assert read.running_reward == experience.running_reward
    assert [path.name for path in tmp_path.iterdir()] == ["step_000012"]


@pytest.mark.parametrize(
    "algorithm",
    [{}, {"dynamic_sampling_rounds": 2, "reward_momentum": 0.5}, {"kl_in": "reward", "advantage_estimator": "rloo"}],
)
@pytest.mark.parametrize("replay_from", BOUNDARIES)
def test_the_policy_gets_the_same_batch(tmp_path: Path, replay_from: str, algorithm: dict[str, Any]) -> None:
    """Catches a replay that is only like what it replays, and a stage that is asked for what is read."""
    recorded = record(tmp_path, algorithm=algorithm)
    replayed = replay(tmp_path, replay_from, algorithm=algorithm)
    assert len(recorded.policy.updates) == 3
    for one, other in zip(recorded.policy.updates, replayed.policy.updates, strict=True):
        assert same_bits(one, other)
    assert recorded.trainer.state == replayed.trainer.state
    assert replayed.policy.names == ["update"] * 3
    assert replayed.rollout.requests == []
    asked = BOUNDARIES.index(replay_from)
    assert bool(replayed.rewards.submitted) == (asked < 1)
    assert bool(replayed.reference.submitted) == (asked < 2)


def test_what_follows_the_boundary_is_made(tmp_path: Path) -> None:
    """Catches a replay that reads more than it was told to, so that a change of reward or estimator shows nothing."""
    recorded = record(tmp_path)
    other = {"algorithm": {"advantage_estimator": "reinforce"}}
    changed = {name: replay(tmp_path, name, **other) for name in BOUNDARIES}
    # Not normalized: the advantages are the rewards that the server said, 0 where it could not grade.
    said = {"p0": [1.0, 1.0], "p1": [0.3, 0.1], "p2": [0.0, 1.0], "p3": [0.0, 0.0], "p4": [1.0, 0.0], "p5": [1.0, 0.0]}
    for name in ("rollout", "reward"):
        for prompts, batch in zip(recorded.rollout.requests, changed[name].policy.updates, strict=True):
            expected = torch.tensor([reward for prompt in prompts[0] for reward in said[prompt]])
            assert batch.advantages is not None
            found = torch.zeros(4)
            trains = batch.response_mask.any(-1).nonzero().flatten()
            found[trains] = batch.mean_advantages[trains]
            torch.testing.assert_close(found, expected)
    for one, two in zip(recorded.policy.updates, changed["advantage"].policy.updates, strict=True):
        assert same_bits(one, two)


def test_replay_with_a_critic(tmp_path: Path) -> None:
    """Catches values that are asked again of a critic which has learned meanwhile, and a critic that learns nothing."""
    gae = {"algorithm": {"advantage_estimator": "gae"}}
    recorded, replayed = record(tmp_path, **gae), replay(tmp_path, "advantage", **gae)
    assert replayed.critic is not None
    assert [name for name, _ in replayed.critic.calls] == ["update_critic", "collected"] * 3
    assert same_bits(recorded.policy.updates[0], replayed.policy.updates[0])


def test_a_step_that_fails_in_its_update_can_be_replayed(tmp_path: Path) -> None:
    """Catches records that are written after the update: the step to look at would be the one that is missing."""
    config = make_debug(tmp_path, num_steps=1)
    fakes = Fakes(config, Recording(config, tmp_path / "records", resume=False))

    def fail(number: int) -> None:
        raise PolicyError("out of memory")

    fakes.policy.during_update = fail
    with pytest.raises(PolicyError):
        fakes.trainer.step()
    replayed = replay(tmp_path, "advantage", num_steps=1)
    assert same_bits(fakes.policy.updates[0], replayed.policy.updates[0])


def test_whole_run_of_a_replay(tmp_path: Path) -> None:
    """Catches a run that needs what a replay does not start: engines to push to, or to measure with."""
    record(tmp_path)
    config = make_debug(tmp_path, "reward")
    fakes = Fakes(config, Replay(config, tmp_path / "records", resume=False))
    job = RLJob(config, Datasets(PROMPTS, []), fakes.stages)
    Run(config, job, Loggers(config.tracking, config.run, {}), fakes.stages.interrupts).go(resume=False)
    assert fakes.policy.names == ["update"] * 3
    assert fakes.rollout.requests == []
    assert [row["step"] for row in read_jsonl(config.run.folder / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize(("limit", "part"), [(1000, "File too large"), (3000, "os error 27")])
def test_a_step_for_which_there_is_no_room(tmp_path: Path, limit: int, part: str) -> None:
    """Catches safetensors' own exception, which nothing expects, and half of a step that is left on a full disk.

    The groups take 1.5 kB, the tensors, of which the advantages are made large here, 5 kB.
    """
    record(tmp_path, steps=1)
    fakes = Fakes(make_debug(tmp_path), Recording(make_debug(tmp_path), tmp_path / "records", resume=True))
    experience = replace(fakes.trainer.step().experience, advantages=torch.zeros(1000))
    with no_file_beyond(limit), pytest.raises(MissingError, match="step 1 is not recorded") as raised:
        write_step(tmp_path / "records", experience)
    assert part in str(raised.value)
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == ["config.yaml", "step_000001"]


def test_a_record_that_could_not_begin_can_begin_again(tmp_path: Path) -> None:
    """Catches a folder that holds no step, and is refused as used once there is room."""
    fakes = Fakes(make_debug(tmp_path), Recording(make_debug(tmp_path), tmp_path / "records", resume=False))
    experience = record(tmp_path / "elsewhere", steps=1).trainer.step().experience
    size = len(to_yaml(make_debug(tmp_path)))
    assert size > 1200, "the step would have room"
    large = replace(experience, advantages=torch.zeros(size))
    recording = Recording(make_debug(tmp_path), tmp_path / "records", resume=False)
    with no_file_beyond(size), pytest.raises(MissingError, match="is not recorded"):
        recording.wrap(lambda experience, past: large)(experience, None)
    Recording(make_debug(tmp_path), tmp_path / "records", resume=False)
    fakes.trainer.step()
    assert (tmp_path / "records/step_000001").exists()


@pytest.mark.parametrize(("replay_from", "reads_grades"), [("rollout", False), ("reward", True), ("advantage", True)])
def test_grades_that_are_read_need_no_server(tmp_path: Path, replay_from: str, reads_grades: bool) -> None:
    """Catches a replay that starts or waits for a reward server which it never asks, and one that asks none."""
    record(tmp_path)
    config = make_debug(tmp_path, replay_from)
    # Nothing listens there.
    reward = config.reward.model_copy(update={"url": ["http://127.0.0.1:9"], "ready_timeout_seconds": 0.1})
    config = config.model_copy(update={"reward": reward})
    recorded = Replay(config, tmp_path / "records", resume=False)
    with own_reward_server(config) as wait_for_address:
        assert wait_for_address is None
    reward = config.reward.model_copy(update={"url": None})
    with own_reward_server(config.model_copy(update={"reward": reward})) as wait_for_address:
        assert (wait_for_address is None) is reads_grades
    if reads_grades:
        with ready_rewards(config, recorded, Datasets([], []), None) as rewards:
            assert rewards is recorded
    else:
        with pytest.raises(RewardServerUnavailable), ready_rewards(config, recorded, Datasets([], []), None):
            pass


def test_nothing_recorded_is_compared_with_this_runs_weights(tmp_path: Path) -> None:
    """Catches a replay that ends because its policy is not the one that sampled.

    The fake's first update says that engine and trainer differ by 1/32 nats and policy and reference by 2^-11, both far
    beyond what float32 explains. The run that makes such steps itself is ended.
    """
    model = {"path": "model", "dtype": "float32"}
    record(tmp_path, model=model)
    config = make_debug(tmp_path, "rollout", model=model)
    fakes = Fakes(config, Replay(config, tmp_path / "records", resume=False))
    job = RLJob(config, Datasets(PROMPTS, []), fakes.stages)
    job.step()
    job.check()
    own = RLJob(config, Datasets(PROMPTS, []), make_stages(config))
    own.step()
    with pytest.raises(TrainingError, match="not loaded from the same weights"):
        own.check()


# Rollout alone


def test_rollout_only_makes_no_update(tmp_path: Path) -> None:
    """Catches weights, of policy or critic, that move in a run which is to look at rollout and rewards alone, and
    passes over the batch that can only say the same again."""
    fakes = Fakes(
        make_config(
            tmp_path,
            debug={"rollout_only": True},
            reward={"max_failed_fraction": 0.5},
            algorithm={"advantage_estimator": "gae", "max_epochs": 3},
        )
    )
    made = fakes.trainer.step()
    # Weights that do not change need no old log-probs: the ratio is 1.
    assert fakes.policy.names == ["evaluate", "push_weights"]
    assert fakes.critic is not None
    assert [name for name, _ in fakes.critic.calls] == ["values", "evaluate_critic", "collected"]
    assert made.metrics["policy/grad_norm"] == 0.0


# What is wrong with records is told in one line


@pytest.mark.parametrize("name", ["groups.jsonl", "batch.safetensors", "step.json", "checksums.json"])
@pytest.mark.parametrize("change", ["flipped", "removed"])
def test_damage_is_told(tmp_path: Path, name: str, change: str) -> None:
    """Catches training on a record that a full disk or a bad copy has changed."""
    record(tmp_path, steps=2, num_steps=2)
    path = tmp_path / "records/step_000002" / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink()
    if change == "flipped":
        path.write_bytes(content)
    with pytest.raises(MissingError, match=r"step_000002: .+ is not as it was recorded; record the step again"):
        replay(tmp_path, "rollout", num_steps=2)


def test_missing_records_are_told(tmp_path: Path) -> None:
    """Catches a run that starts its actors and trains for an hour before it finds that a step is missing."""
    config = make_debug(tmp_path, "rollout", num_steps=4)
    with pytest.raises(MissingError, match=r"records: no records here; debug\.record writes them"):
        Replay(config, tmp_path / "records", resume=False)
    record(tmp_path)
    with pytest.raises(MissingError, match="no record of step 4; there are those of 1, 2, 3"):
        Replay(config, tmp_path / "records", resume=False)
    # A resumed run makes only the later steps.
    (tmp_path / "records/step_000001").rename(tmp_path / "gone")
    Replay(config, tmp_path / "records", resume=True)


@pytest.mark.parametrize(
    ("replay_from", "sections", "message"),
    [
        ("rollout", {"rollout": {"n_samples_per_prompt": 4}}, "rollout.n_samples_per_prompt 2, here 4"),
        ("rollout", {"rollout": {"rollout_batch_size": 4}}, "rollout.rollout_batch_size 2, here 4"),
        ("reward", {"rollout": {"temperature": 0.7}}, "rollout.temperature 1.0, here 0.7"),
        (
            "advantage",
            {"algorithm": {"init_kl_coef": 0.0, "advantage_estimator": "gae"}},
            r"without values \(gae\); replay from reward",
        ),
        ("advantage", {"algorithm": {"init_kl_coef": 0.1}}, "without log-probs of a reference"),
    ],
)
def test_records_of_another_config(tmp_path: Path, replay_from: str, sections: dict[str, Any], message: str) -> None:
    """Catches shapes that do not fit, a policy that reads responses at another temperature, and tensors that are not
    there, found in the middle of a step."""
    record(tmp_path, algorithm={"init_kl_coef": 0.0})
    with pytest.raises(ConfigError, match=message):
        replay(tmp_path, replay_from, **{"algorithm": {"init_kl_coef": 0.0}} | sections)


def test_records_of_other_prompts(tmp_path: Path) -> None:
    """Catches responses that are put under prompts of another data set with the same ids."""
    record(tmp_path)
    config = make_debug(tmp_path, "rollout")
    recorded = Replay(config, tmp_path / "records", resume=False)
    trainer = Fakes(config, recorded, [make_prompt(number, text="other") for number in range(6)]).trainer
    with pytest.raises(ConfigError, match=r"step_000001: another prompt for p\d, which comes now; give the data"):
        trainer.step()


def test_records_are_not_mixed(tmp_path: Path) -> None:
    """Catches two runs in one folder of records, and a resumed run that cannot go on with its own."""
    record(tmp_path)
    config = make_debug(tmp_path)
    with pytest.raises(ConfigError, match=r"debug\.record .*records: already used"):
        Recording(config, tmp_path / "records", resume=False)
    Recording(config, tmp_path / "records", resume=True)
    with pytest.raises(ConfigError, match="already used"):
        Recording(make_debug(tmp_path, run={"name": "other"}), tmp_path / "records", resume=True)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"debug": {"replay_from": "reward"}}, "debug.replay_from needs debug.replay"),
        ({"debug": {"replay": "r", "record": "s"}}, "debug.replay and debug.record exclude each other"),
        ({"debug": {"replay": "r", "rollout_only": True}}, "debug.replay and debug.rollout_only exclude each other"),
        ({"debug": {"record": "r"}, "rollout": {"max_staleness": 2}}, "need rollout.max_staleness 0, and it is 2"),
        (
            {"debug": {"replay": "r"}, "evaluation": {"eval_steps": 1}, "data": {"held_out": "h"}},
            "evaluation.eval_steps needs engines",
        ),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    """Catches settings that would be passed over in silence."""
    with pytest.raises(ConfigError, match=message):
        check_train(make_config(tmp_path, **sections))


# The real thing


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_replays_train_as_the_recorded_run(
    tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path
) -> None:
    """Catches a replay that starts an engine, needs a server that it does not ask, or trains on something else.

    Weight decay and a high rate move the weights, so that step 2 differs from step 1 whatever the random model answers.
    """
    config = write_config(
        tmp_path / "config.yaml",
        tiny_model(True),
        countdown_files,
        optimizer={"learning_rate": 1.0e-2, "weight_decay": 1.0},
    )
    records = tmp_path / "records"
    run_grpo(config, "--run.name", "recorded", "--debug.record", str(records))
    expected = read_jsonl(tmp_path / "runs/recorded/metrics.jsonl")
    for boundary in BOUNDARIES:
        words = ["--run.name", boundary, "--debug.replay", str(records), "--debug.replay_from", boundary]
        output = run_grpo(config, *words)
        assert "held-out prompts are not evaluated" in output
        logs = {path.name for path in (tmp_path / "runs" / boundary / "logs").iterdir()}
        assert not any(name.startswith("engine") for name in logs)
        assert ("reference_0.log" in logs) == (boundary != "advantage")
        assert ("reward_server.log" in logs) == (boundary == "rollout")
        found = read_jsonl(tmp_path / "runs" / boundary / "metrics.jsonl")
        for key in ("policy/loss", "policy/grad_norm", "policy/kl", "rollout/mismatch_abs_mean", "reward/mean"):
            values = [row[key] for row in found]
            assert values == pytest.approx([row[key] for row in expected], rel=1e-4, abs=1e-7), (boundary, key)
