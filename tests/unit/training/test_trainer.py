"""The loop, driven with fakes: order, advantages, failures, versions, interrupts and metrics; and what it imports."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import StepStats
from openr1.algorithms.objectives.policy import PolicySums
from openr1.algorithms.optimizer_step import optimizer_step
from openr1.config.train import TrainConfig
from openr1.data.prompts import PromptStream
from openr1.errors import RewardServerUnavailable, TrainingError
from openr1.rollout import experience
from openr1.rollout.experience import StepResult
from openr1.rollout.producer import ExperienceProducer
from openr1.runtime.interrupts import Interrupted, Interrupts
from openr1.tracking.recorder import RunRecorder
from openr1.training.stages import Stages
from openr1.training.trainer import Trainer
from openr1.types import Grade, Group, Prompt, TrainerState
from tests.fakes import (
    FakePolicy,
    FakeRewards,
    FakeRollout,
    graded,
    make_config,
    make_group,
    make_prompt,
    make_response,
    make_stages,
)
from tests.running import ROOT
from tests.unit.algorithms.plain import Bigram, PlainBackend

PROMPTS = [make_prompt(number) for number in range(6)]
# What the design promises of metrics.jsonl, besides `step`.
PROMISED_METRICS = {
    "reward": ["mean", "accuracy", "failed_fraction"],
    "rollout": ["response_length_mean", "truncated_fraction", "mismatch_kl", "mismatch_abs_mean"],
    "policy": ["loss", "kl", "entropy", "grad_norm", "clip_fraction"],
    "sync": ["seconds", "version"],
    "time": [f"{phase}_seconds" for phase in ("step", "generate", "reward", "reference", "update", "sync")],
    "throughput": ["tokens_per_second"],
}


def trainer_of(config: TrainConfig, stages: Stages, prompts: Sequence[Prompt] = PROMPTS) -> Trainer:
    """A trainer over these stages, put together as a run does it."""
    producer = ExperienceProducer(
        config,
        PromptStream(prompts, config.run.seed),
        stages.rollout,
        stages.rewards,
        stages.reference,
        stages.interrupts,
    )
    return Trainer(
        config, producer, stages.estimate_advantages, stages.policy, stages.critic, stages.memory, stages.interrupts
    )


def make_trainer(config: TrainConfig, **stages: Any) -> Trainer:
    """A trainer over six prompts, with fakes for the stages that are not given."""
    return trainer_of(config, make_stages(config, **stages))


def make_step(config: TrainConfig, **stages: Any) -> StepResult:
    """A new trainer's first step."""
    return make_trainer(config, **stages).step()


def advantages_of(result: StepResult) -> torch.Tensor:
    """The advantages [P, G] that a step trained on."""
    assert result.experience.advantages is not None
    return result.experience.advantages


def backwards(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """The last prompt's group is finished first."""
    return prompts[::-1]


# Order


def test_batch_follows_the_prompts_whatever_finishes_first(tmp_path: Path) -> None:
    """Catches grades, reference log-probs or advantages of one group that end up at another's tokens."""
    config = make_config(tmp_path)
    rollout, policy = FakeRollout(order=backwards), FakePolicy()
    prompts = PromptStream(PROMPTS, config.run.seed).take(2)
    # Only the second prompt's group teaches: its long response is wrong, its short one right.
    rewards = FakeRewards(graded({prompts[0].id: [1.0, 1.0], prompts[1].id: [0.0, 1.0]}))
    result = make_step(config, rollout=rollout, rewards=rewards, policy=policy)
    assert rewards.submitted == [prompts[1].id, prompts[0].id]
    assert [group.prompt.id for group in result.experience.groups] == [prompts[0].id, prompts[1].id]
    assert [[grade.reward for grade in scored.grades] for scored in result.experience.scored] == [
        [1.0, 1.0],
        [0.0, 1.0],
    ]
    (batch,) = policy.updates
    # Each row: prompt token n, then the response's tokens 10 n + index, twice for index 0 and once for index 1.
    first, second = (prompt.token_ids[0] for prompt in prompts)
    rows = [[n, *[10 * n + index] * (2 - index)] for n in (first, second) for index in (0, 1)]
    assert [row[:length].tolist() for row, length in zip(batch.input_ids, batch.lengths, strict=True)] == rows
    assert batch.rollout_log_probs[batch.response_mask].tolist() == [-1.0] * 6
    # The reference's answer for token x is -x / 1000.
    assert batch.ref_log_probs is not None
    torch.testing.assert_close(batch.ref_log_probs, -batch.input_ids * batch.response_mask / 1000)
    # Group [0, 1]: mean 1/2, std sqrt(2 * 1/4 / 1) = sqrt(1/2), so -sqrt(1/2) and sqrt(1/2).
    root = math.sqrt(0.5)
    torch.testing.assert_close(advantages_of(result), torch.tensor([[0.0, 0.0], [-root, root]]), rtol=1e-5, atol=0)
    expected = torch.tensor([[0, 0, 0], [0, 0, 0], [0, -root, -root], [0, root, 0]])
    assert batch.advantages is not None
    torch.testing.assert_close(batch.advantages, expected, rtol=1e-5, atol=0)
    assert batch.old_log_probs is None


def test_finishing_order_changes_nothing(tmp_path: Path) -> None:
    """Catches a run that cannot be repeated, because engines are not equally fast every time."""
    batches = []
    for order in (list, backwards):
        policy = FakePolicy()
        rewards = FakeRewards(graded({prompt.id: [float(number), 1.0] for number, prompt in enumerate(PROMPTS)}))
        make_trainer(make_config(tmp_path), rollout=FakeRollout(order=order), rewards=rewards, policy=policy).step()
        batches += policy.updates
    for one, other in zip(*(vars(batch).values() for batch in batches), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_every_step_asks_for_other_samples(tmp_path: Path) -> None:
    """Catches one seed for all steps, with which a prompt would get the same responses epoch after epoch."""
    rollout = FakeRollout()
    trainer = make_trainer(make_config(tmp_path, rollout={"temperature": 0.7, "top_p": 0.9}), rollout=rollout)
    for _ in range(2):
        trainer.step()
    (first, sampling), (second, later) = rollout.requests
    assert len({*first, *second}) == 4
    assert (sampling.temperature, sampling.top_p, sampling.n_samples_per_prompt) == (0.7, 0.9, 2)
    assert (sampling.generate_max_len, sampling.seed) == (8, 7)
    assert sampling.seed_stream != later.seed_stream
    assert sampling.seed_of(PROMPTS[0], 0) != later.seed_of(PROMPTS[0], 0)


def test_seeds_of_a_step_do_not_overlap(tmp_path: Path) -> None:
    """Catches two responses, of one prompt or of two, that are the same."""
    rollout = FakeRollout()
    make_trainer(make_config(tmp_path), rollout=rollout).step()
    sampling = rollout.requests[0][1]
    seeds = [sampling.seed_of(make_prompt(number), index) for number in range(1000) for index in range(2)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_turns_of_a_response_have_seeds_of_their_own(tmp_path: Path) -> None:
    """Catches later turns that repeat the draws of the first one, and a first turn whose seed is not that of a whole
    response."""
    rollout = FakeRollout()
    make_trainer(make_config(tmp_path), rollout=rollout).step()
    sampling = rollout.requests[0][1]
    turns = [sampling.seed_of(PROMPTS[0], 1, offset) for offset in range(100)]
    assert turns[0] == sampling.seed_of(PROMPTS[0], 1)
    assert len(set(turns)) == 100


# Ungraded responses


def test_ungraded_response_does_not_count_as_wrong(tmp_path: Path) -> None:
    """Catches a failure that becomes a reward of 0: the second response would then look worse than the third."""
    config = make_config(
        tmp_path,
        rollout={"n_samples_per_prompt": 3},
        policy={"train_batch_size": 6},
        reward={"max_failed_fraction": 0.5},
    )
    policy = FakePolicy()
    rollout = FakeRollout(make=lambda prompt: make_group(prompt, (1, 2, 1)))
    rewards = FakeRewards(graded(default=(1.0, None, 0.5)))
    result = make_step(config, rollout=rollout, rewards=rewards, policy=policy)
    # Over 1 and 1/2: mean 3/4, std sqrt(2 * 1/16 / 1) = 1/4 sqrt(2); (1/4) / (1/4 sqrt(2)) = sqrt(1/2).
    root = math.sqrt(0.5)
    torch.testing.assert_close(advantages_of(result), torch.tensor([[root, 0.0, -root]] * 2), rtol=1e-5, atol=0)
    (batch,) = policy.updates
    assert batch.advantages is not None
    assert not batch.advantages[[1, 4]].any()
    # Means over the graded: 3/4. Two of six failed.
    assert result.metrics["reward/mean"] == pytest.approx(0.75)
    assert result.metrics["reward/accuracy"] == pytest.approx(0.75)
    assert result.metrics["reward/failed_fraction"] == pytest.approx(1 / 3, rel=1e-6)
    assert result.metrics["reward/signal_fraction"] == 1


def test_ungraded_response_does_not_train(tmp_path: Path) -> None:
    """Catches an ungraded response that has no advantage, but a KL term; the config says that it never trains."""
    policy = FakePolicy()
    config = make_config(tmp_path, reward={"max_failed_fraction": 0.5})
    make_trainer(config, rewards=FakeRewards(graded(default=(1.0, None))), policy=policy).step()
    (batch,) = policy.updates
    assert batch.response_mask.any(dim=1).tolist() == [True, False, True, False]


def test_too_many_failures_stop_the_run(tmp_path: Path) -> None:
    """Catches an update on what is left, and a message without the numbers that were compared."""
    policy = FakePolicy()
    config = make_config(tmp_path, reward={"max_failed_fraction": 0.2})
    trainer = make_trainer(config, rewards=FakeRewards(graded(default=(1.0, None))), policy=policy)
    with pytest.raises(TrainingError) as caught:
        trainer.step()
    for part in ("step 1", "50.0%", "reward.max_failed_fraction 0.2", "grader_error: it broke"):
        assert part in str(caught.value)
    assert policy.calls == []
    assert (trainer.state.step, trainer.state.version) == (0, 0)


def test_one_failure_is_too_many_by_default(tmp_path: Path) -> None:
    """Catches a default that lets failures pass unseen."""
    rewards = FakeRewards(graded({PROMPTS[0].id: [1.0, None]}))
    trainer = make_trainer(make_config(tmp_path, rollout={"rollout_batch_size": 6}), rewards=rewards)
    with pytest.raises(TrainingError, match=r"8\.3%"):
        # One of twelve.
        trainer.step()


def test_allowed_share_of_failures_is_included(tmp_path: Path) -> None:
    """Catches rounding: exactly a tenth fails, a tenth is allowed, and the run stops all the same."""
    config = make_config(
        tmp_path,
        rollout={"n_samples_per_prompt": 5},
        policy={"train_batch_size": 10},
        reward={"max_failed_fraction": 0.1},
    )
    prompts = PromptStream(PROMPTS, config.run.seed).take(2)
    rewards = FakeRewards(graded({prompts[0].id: [None, 1.0, 0.0, 0.0, 0.0]}, default=(1.0, 0.0, 0.0, 0.0, 0.0)))
    rollout = FakeRollout(make=lambda prompt: make_group(prompt, (1, 1, 1, 1, 1)))
    assert make_step(config, rollout=rollout, rewards=rewards).step == 1


def refuse(group: Group) -> list[Grade]:
    """A reward server that is gone."""
    raise RewardServerUnavailable("gone")


class LateFuture(Future[list[Grade]]):
    """Takes 40 s of a clock to give its result."""

    def __init__(self, clock: list[float], result: list[Grade]) -> None:
        super().__init__()
        self._clock = clock
        self.set_result(result)

    def result(self, timeout: float | None = None) -> list[Grade]:
        """The result, later."""
        self._clock[0] += 40.0
        return super().result(timeout)


def test_a_slow_server_shows_in_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a wait for rewards that counts as generation, or nowhere, so that nobody sees which stage is slow."""
    clock = [0.0]

    class LateRewards(FakeRewards):
        def submit(self, group: Group) -> "Future[list[Grade]]":
            return LateFuture(clock, super().submit(group).result())

    monkeypatch.setattr(experience, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    result = make_step(make_config(tmp_path), rewards=LateRewards())
    # Two groups.
    assert result.metrics["time/reward_seconds"] == 80
    assert result.metrics["time/generate_seconds"] == 0
    assert result.metrics["reward/failed_fraction"] == 0


def test_failed_stage_changes_nothing(tmp_path: Path) -> None:
    """Catches an update without rewards, and prompts that are skipped by the run that goes on from here."""
    policy = FakePolicy()
    trainer = make_trainer(make_config(tmp_path), rewards=FakeRewards(refuse), policy=policy)
    before = trainer.state
    with pytest.raises(RewardServerUnavailable, match="gone"):
        trainer.step()
    assert policy.calls == []
    assert trainer.state == before


def test_refused_rewards_change_nothing(tmp_path: Path) -> None:
    """Catches prompts that are lost where a step ends between rollout and update, as a signal may end it too."""
    trainer = make_trainer(make_config(tmp_path), rewards=FakeRewards(graded(default=(1.0, None))))
    before = trainer.state
    with pytest.raises(TrainingError):
        trainer.step()
    assert trainer.state == before


# Updates and versions


def test_every_step_pushes_the_next_version(tmp_path: Path) -> None:
    """Catches a push before the update, a missing one, and a version that is counted twice."""
    policy = FakePolicy()
    trainer = make_trainer(make_config(tmp_path), policy=policy)
    results = [trainer.step() for _ in range(3)]
    assert policy.names == ["update", "push_weights"] * 3
    assert policy.pushes == [1, 2, 3]
    assert [result.step for result in results] == [1, 2, 3]
    assert [result.metrics["sync/version"] for result in results] == [1, 2, 3]
    assert (trainer.state.step, trainer.state.version) == (3, 3)


def test_later_updates_share_the_log_probs_from_before_the_first(tmp_path: Path) -> None:
    """Catches old log-probs that are computed again after an update: every ratio would be 1, and nothing clipped. And
    a forward pass over the rows of the first update, which needs none."""
    policy = FakePolicy()
    config = make_config(
        tmp_path,
        rollout={"rollout_batch_size": 3},
        policy={"train_batch_size": 2},
        algorithm={"eps_clip_low": 0.1, "eps_clip_high": 0.3},
    )
    result = make_step(config, policy=policy)
    assert policy.names == ["log_probs", "update", "update", "update", "push_weights"]
    first, *later = policy.updates
    assert first.old_log_probs is None
    for batch in later:
        # -1: the fake had made no update when it was asked.
        assert batch.old_log_probs is not None
        assert torch.equal(batch.old_log_probs, -1.0 * batch.response_mask)
    # The rows in order, each in one update, and those of the later ones in the question.
    whole = result.experience.batch
    assert [len(batch) for batch in policy.updates] == [2, 2, 2]
    assert torch.equal(torch.cat([batch.input_ids for batch in policy.updates]), whole.input_ids)
    assert torch.equal(policy.calls[0][1].input_ids, whole.input_ids[2:])
    assert [(objective.bounds.low, objective.bounds.high, objective.kl_coef) for objective in policy.objectives] == [
        (0.1, 0.3, 0.01)
    ] * 3
    # The fake's gradient norms are 1, 2 and 3, its learning rates a tenth of them.
    assert result.metrics["policy/grad_norm"] == 2
    assert result.metrics["policy/learning_rate"] == pytest.approx(0.3)


class LearningPolicy(FakePolicy):
    """A small model that really learns, by plain PyTorch; it knows the 200 tokens that the fakes use."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Bigram()
        self.model.table = nn.Parameter(torch.randn(200, 200, generator=torch.Generator().manual_seed(0)))
        self.backend = PlainBackend(self.model)

    @torch.no_grad()
    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """The model's."""
        super().log_probs(batch)
        return self.model(*batch.inputs).log_probs

    def step(self, batch: TrainBatch, objective: Any, apply: bool = True) -> StepStats[Any]:
        """One step of SGD."""
        super().step(batch, objective, apply)
        return optimizer_step(self.backend, [batch], objective, apply=apply)


def test_first_update_is_the_same_without_old_log_probs(tmp_path: Path) -> None:
    """Catches a correction, ratio or metric that differs where old log-probs are left out.

    Expected: the same updates with the log-probs of every row, from before the first of them.
    """
    off_policy = {"importance": "token", "rejection": "token"}
    config = make_config(tmp_path, policy={"train_batch_size": 2}, off_policy=off_policy)
    policy, plain = LearningPolicy(), LearningPolicy()
    # Near the model's own log-probs, about -ln 200, so that some tokens are in bounds and others are not.
    rollout = FakeRollout(
        make=lambda prompt: Group(prompt, tuple(make_response(n, 9, n, log_prob=-5.0) for n in (5, 7)))
    )
    result = make_step(config, policy=policy, rollout=rollout)
    whole = result.experience.batch
    whole = replace(whole, old_log_probs=plain.log_probs(whole))
    parts = whole.mini_batches(2, config.algorithm.loss_aggregation, config.rollout.generate_max_len)
    stats = [plain.step(part, policy.objectives[0]) for part in parts]
    assert torch.equal(policy.model.table, plain.model.table)
    assert not torch.equal(policy.model.table, LearningPolicy().model.table)
    sums = PolicySums(*(sum(values) for values in zip(*(one.sums for one in stats), strict=True)))
    assert 0 < sums.rejected < sums.tokens
    for metric, name in (
        ("rollout/mismatch_abs_mean", "mismatch_abs"),
        ("rollout/mismatch_kl", "mismatch_kl"),
        ("policy/importance_weight_mean", "importance"),
        ("policy/rejected_fraction", "rejected"),
        ("policy/clip_fraction", "clipped"),
    ):
        assert result.metrics[metric] == getattr(sums, name) / sums.tokens
    assert result.metrics["policy/loss"] == sum(one.loss for one in stats) / 2


def test_run_without_reference(tmp_path: Path) -> None:
    """Catches a run without a KL term that needs a reference all the same, or gets log-probs of 0 for it."""
    policy = FakePolicy()
    config = make_config(tmp_path, algorithm={"init_kl_coef": 0.0})
    result = make_step(config, policy=policy)
    assert policy.updates[0].ref_log_probs is None
    missing = {
        f"{section}/{name}" for section, names in PROMISED_METRICS.items() for name in names
    } - result.metrics.keys()
    assert missing == set()


def test_restored_trainer_goes_on_the_same(tmp_path: Path) -> None:
    """Catches a resume that loses the place in the data, the seeds or the version, or pushes nothing."""
    config = make_config(tmp_path)
    whole = FakeRollout()
    trainer = make_trainer(config, rollout=whole)
    for _ in range(2):
        trainer.step()
    state = TrainerState.from_json(json.loads(json.dumps(asdict(trainer.state))))
    trainer.step()
    rollout, policy = FakeRollout(), FakePolicy()
    resumed = make_trainer(config, rollout=rollout, policy=policy)
    resumed.restore(state)
    assert policy.calls == [("push_weights", 2)]
    resumed.step()
    assert resumed.state == trainer.state
    assert rollout.requests == whole.requests[2:]
    assert policy.pushes == [2, 3]


# Interrupts


@pytest.mark.parametrize("after", [0, 1])
def test_interrupt_while_generating_gives_the_prompts_back(tmp_path: Path, after: int) -> None:
    """Catches prompts that a resumed run never sees, and half of a batch that is trained on."""
    policy = FakePolicy()
    rollout = FakeRollout(interrupt_after=after)
    trainer = make_trainer(make_config(tmp_path), rollout=rollout, policy=policy)
    before = trainer.state
    with pytest.raises(Interrupted):
        trainer.step()
    assert policy.calls == []
    assert trainer.state == before
    rollout.interrupt_after = None
    trainer.step()
    assert rollout.requests[0] == rollout.requests[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_in_an_update_waits_for_the_end_of_the_section(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Catches a step that is cut between update and push, or between the push and its record: engines that do not
    hold what the policy has learned, and a step that is trained and missing from the records."""
    interrupts = Interrupts()
    # In the first of two updates only: a second signal ends the process.
    policy = FakePolicy(during_update=lambda update: signal.raise_signal(number) if update == 1 else None)
    config = make_config(tmp_path, policy={"train_batch_size": 2})
    trainer = make_trainer(config, policy=policy, interrupts=interrupts)
    recorded: list[int] = []

    def step_and_record() -> None:
        with interrupts.section():
            recorded.append(trainer.step().step)
        recorded.append(-1)

    before = signal.getsignal(number)
    with interrupts.installed(), pytest.raises(Interrupted) as caught:
        step_and_record()
    assert caught.value.exit_code == code
    assert policy.names == ["log_probs", "update", "update", "push_weights"]
    assert (trainer.state.step, trainer.state.version) == (1, 1)
    assert trainer.state.prompts["cursor"] == 2
    assert recorded == [1]
    assert signal.getsignal(number) == before


def test_without_a_section_a_signal_waits_for_the_push(tmp_path: Path) -> None:
    """Catches a trainer that is only safe inside a run."""
    interrupts = Interrupts()
    policy = FakePolicy(during_update=lambda update: signal.raise_signal(signal.SIGTERM))
    trainer = make_trainer(make_config(tmp_path), policy=policy, interrupts=interrupts)
    with interrupts.installed(), pytest.raises(Interrupted):
        trainer.step()
    assert policy.pushes == [1]
    assert trainer.state.step == 1


def test_signal_in_a_section_before_the_update_is_raised_at_once(tmp_path: Path) -> None:
    """Catches a section that holds back from its start: Ctrl-C would wait for a generation of minutes."""
    interrupts, policy = Interrupts(), FakePolicy()

    def interrupted(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        signal.raise_signal(signal.SIGINT)
        return prompts

    trainer = make_trainer(
        make_config(tmp_path), rollout=FakeRollout(order=interrupted), policy=policy, interrupts=interrupts
    )
    before = trainer.state
    with interrupts.installed(), pytest.raises(Interrupted), interrupts.section():
        trainer.step()
    assert policy.calls == []
    assert trainer.state == before


def test_nested_blocks_are_held_back_to_the_outermost() -> None:
    """Catches a signal raised at the end of an inner block, in the middle of the outer one."""
    interrupts = Interrupts()
    reached = []

    def run() -> None:
        with interrupts.held_back():
            with interrupts.held_back():
                signal.raise_signal(signal.SIGTERM)
            reached.append("end of the outer block")
        reached.append("after it")

    with interrupts.installed(), pytest.raises(Interrupted, match="SIGTERM"):
        run()
    assert reached == ["end of the outer block"]


def test_signal_outside_is_raised_at_once() -> None:
    """Catches a Ctrl-C that waits for a generation of minutes."""
    interrupts = Interrupts()
    reached = []

    def run() -> None:
        signal.raise_signal(signal.SIGINT)
        reached.append("after the signal")

    with interrupts.installed(), pytest.raises(Interrupted, match="SIGINT"):
        run()
    assert reached == []


# Metrics


def test_metrics_by_hand(tmp_path: Path) -> None:
    """Catches a promised metric that is missing, a mean over groups, and sums that are divided by another count."""
    config = make_config(tmp_path, policy={"train_batch_size": 2})
    policy = FakePolicy()
    prompts = PromptStream(PROMPTS, config.run.seed).take(2)
    rewards = FakeRewards(graded({prompts[0].id: [1.0, 1.0], prompts[1].id: [1.0, 0.0]}))

    def make(prompt: Prompt) -> Group:
        return Group(prompt, (make_response(1, 2, 3, truncated=prompt.id == prompts[0].id), make_response(4)))

    result = make_step(config, rollout=FakeRollout(make=make), rewards=rewards, policy=policy)
    recorder = RunRecorder(tmp_path, config.tracking)
    recorder.forget_after(0)
    recorder.record_metrics(result.step, result.metrics)
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    promised = {f"{group}/{name}" for group, names in PROMISED_METRICS.items() for name in names}
    assert promised | {"step"} <= row.keys()
    # Rewards 1 1 1 0. Lengths 3 1 3 1, the first truncated. The rest are the fake's numbers for each token.
    expected = {
        "step": 1,
        "reward/mean": 0.75,
        "reward/accuracy": 0.75,
        "reward/equation": 0.75,
        "reward/failed_fraction": 0,
        "reward/signal_fraction": 0.5,
        "rollout/response_length_mean": 2,
        "rollout/truncated_fraction": 0.25,
        "rollout/mismatch_kl": 0.375,
        "rollout/mismatch_abs_mean": 2**-5,
        "rollout/effective_sample_fraction": 0.5,
        "policy/loss": 2,
        "policy/kl": 2**-11,
        "policy/kl_before": 2**-11,
        "policy/entropy": 3,
        "policy/clip_fraction": 0.125,
        "policy/grad_norm": 1.5,
        "policy/learning_rate": 0.2,
        "sync/version": 1,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    # 4 prompts' tokens and 8 of responses.
    assert row["throughput/tokens_per_second"] * row["time/step_seconds"] == pytest.approx(12)
    parts = [row[f"time/{phase}_seconds"] for phase in ("generate", "reward", "reference", "update", "sync")]
    assert all(part >= 0 for part in parts)
    assert sum(parts) <= row["time/step_seconds"]
    assert row["sync/seconds"] == row["time/sync_seconds"]


def score_by_task(group: Group) -> list[Grade]:
    """A dataset of two tasks with different components: prompts of even number, and of odd."""
    even = group.prompt.token_ids[0] % 2 == 0
    components = [{"steps": 0.5}, {"steps": 1.0}] if even else [{"equation": 1.0}, {"equation": 0.0}]
    return [Grade(1.0, 1.0, values, "correct") for values in components]


def test_tasks_with_different_components(tmp_path: Path) -> None:
    """Catches a KeyError after the weights have changed, where a dataset holds more than one task."""
    config = make_config(tmp_path, rollout={"rollout_batch_size": 6}, policy={"train_batch_size": 12})
    metrics = make_step(config, rewards=FakeRewards(score_by_task)).metrics
    # Each over the responses that have it: (1/2 + 1) / 2 and (1 + 0) / 2.
    assert (metrics["reward/steps"], metrics["reward/equation"]) == (0.75, 0.5)


def test_component_cannot_hide_a_metric(tmp_path: Path) -> None:
    """Catches a component named `accuracy` or `mean`, whose value is then reported as the accuracy or the reward."""
    score = Grade(1.1, 1.0, {"accuracy": 0.25, "mean": 0.5}, "correct")
    metrics = make_step(make_config(tmp_path), rewards=FakeRewards(lambda group: [score, score])).metrics
    assert metrics["reward/accuracy"] == pytest.approx(1.0)
    assert metrics["reward/mean"] == pytest.approx(1.1)


# What is imported


def modules_after(code: str) -> set[str]:
    """Names of the top-level modules that a fresh interpreter has loaded after running the code."""
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in result.stderr.split()}


def test_trainer_imports_no_stage() -> None:
    """Catches an import that makes the loop impossible to test without engines or a network."""
    loaded = modules_after("import openr1.training.trainer")
    assert "torch" in loaded
    assert not loaded & {"ray", "vllm", "deepspeed", "aiohttp", "transformers"}


@pytest.mark.parametrize(
    "code",
    [
        "import openr1",
        "import openr1.config.train",
        "import runpy; sys.argv = ['cli', '--help']; runpy.run_module('cli', run_name='__main__')",
        "import runpy; sys.argv = ['cli', 'train', '--help']; runpy.run_module('cli', run_name='__main__')",
        "import runpy; sys.argv = ['cli', 'sft', '--help']; runpy.run_module('cli', run_name='__main__')",
        "import runpy; sys.argv = ['cli', 'serve', '--help']; runpy.run_module('cli', run_name='__main__')",
    ],
)
def test_light_imports(code: str) -> None:
    """Catches help that takes many seconds, because something at the top of a module loads torch."""
    loaded = modules_after(code)
    assert not loaded & {"torch", "ray", "vllm", "deepspeed", "transformers", "aiohttp", "numpy"}
    assert "openr1" in loaded
