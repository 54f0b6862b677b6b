"""What settings of rewards, sampling and losses do to a step, driven with fakes."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from openr1.algorithms.losses import ClipBounds
from openr1.algorithms.objectives.base import StepStats
from openr1.algorithms.objectives.policy import PolicyObjective, PolicySums
from openr1.algorithms.off_policy import OffPolicyCorrection
from openr1.config.checks import check_train
from openr1.config.train import TrainConfig
from openr1.data.prompts import PromptStream
from openr1.errors import ConfigError, TrainingError
from openr1.tracking.recorder import rollout_rows
from openr1.training.replay import replay_stages
from openr1.types import Grade, Group, Prompt, TrainerState
from tests.fakes import (
    FakePolicy,
    FakeReference,
    FakeRewards,
    FakeRollout,
    graded,
    make_config,
    make_group,
    make_response,
    make_stages,
)
from tests.unit.training.test_trainer import PROMPTS, advantages_of, make_step, make_trainer, trainer_of

ROOT_HALF = math.sqrt(0.5)
"""Advantage of the better one of two by GRPO."""


def order_of(config: TrainConfig) -> list[Prompt]:
    """The prompts of a run, in the order in which it takes them."""
    return PromptStream(PROMPTS, config.run.seed).take(len(PROMPTS))


# Dynamic sampling


def test_groups_without_a_difference_are_replaced(tmp_path: Path) -> None:
    """Catches training on groups that teach nothing, a decision by reward, and a refill that loses the order."""
    config = make_config(tmp_path, algorithm={"dynamic_sampling_rounds": 3})
    prompts = order_of(config)
    solved, useful, failed, later = (prompt.id for prompt in prompts[:4])
    answers = {solved: [1.0, 1.0], useful: [1.0, 0.0], failed: [0.0, 0.0], later: [0.0, 1.0]}
    rollout, policy, reference = FakeRollout(), FakePolicy(), FakeReference()
    rewards = FakeRewards(graded({**answers}))
    trainer = make_trainer(config, rollout=rollout, rewards=rewards, policy=policy, reference=reference)
    result = trainer.step()
    # One of two was useful: for the one that is missing, two more are asked for.
    assert [asked for asked, _ in rollout.requests] == [[solved, useful], [failed, later]]
    assert [group.prompt.id for group in result.experience.groups] == [useful, later]
    assert [scored.group.prompt.id for scored in result.experience.dropped] == [solved, failed]
    assert [group.prompt.id for group in reference.submitted] == [useful, later]
    assert result.metrics["rollout/dropped_all_wrong"] == 1
    assert result.metrics["rollout/dropped_all_right"] == 1
    assert len(policy.updates[0]) == 4
    rows = list(rollout_rows(result.experience))
    assert [(row["id"].split("/")[0], row["advantage"] is None) for row in rows[::2]] == [
        (useful, False),
        (later, False),
        (solved, True),
        (failed, True),
    ]
    # The next step goes on behind all that were asked.
    trainer.step()
    assert rollout.requests[2][0] == [prompt.id for prompt in prompts[4:6]]


def test_what_is_missing_after_the_last_round_is_filled_up(tmp_path: Path) -> None:
    """Catches a batch that shrinks, a loop without end, and a prompt that is asked twice in a step."""
    config = make_config(tmp_path, algorithm={"dynamic_sampling_rounds": 2})
    rollout = FakeRollout()
    result = make_step(config, rollout=rollout, rewards=FakeRewards(graded(default=(0.0, 0.0))))
    asked = [name for names, _ in rollout.requests for name in names]
    assert len(asked) == len(set(asked)) == 4
    assert [group.prompt.id for group in result.experience.groups] == asked[:2]
    assert len(result.experience.dropped) == 2
    assert result.metrics["reward/signal_fraction"] == 0


def test_accuracy_decides_what_teaches(tmp_path: Path) -> None:
    """Catches groups that are kept since a format reward differs, though all answers are wrong."""
    config = make_config(tmp_path, algorithm={"dynamic_sampling_rounds": 2})
    first = order_of(config)[0].id

    def score(group: Group) -> list[Any]:
        scores = graded()(group)
        if group.prompt.id == first:
            scores = [type(one)(0.1 * index, 0.0, {}, "wrong") for index, one in enumerate(scores)]
        return scores

    result = make_step(config, rewards=FakeRewards(score))
    assert first not in [group.prompt.id for group in result.experience.groups]


def test_failures_among_dropped_groups_count(tmp_path: Path) -> None:
    """Catches a grader that fails on many prompts, which are then silently never trained."""
    config = make_config(tmp_path, algorithm={"dynamic_sampling_rounds": 2})
    rewards = FakeRewards(graded({order_of(config)[0].id: [None, None]}))
    with pytest.raises(TrainingError, match=r"25.0% of the responses could not be graded"):
        make_step(config, rewards=rewards)


def test_useful_groups_beyond_what_is_needed_are_told_apart(tmp_path: Path) -> None:
    """Catches groups with a difference that are counted as all wrong: one of two is useful, then two of two more."""
    config = make_config(tmp_path, algorithm={"dynamic_sampling_rounds": 2})
    result = make_step(config, rewards=FakeRewards(graded({order_of(config)[0].id: [1.0, 1.0]})))
    counts = {
        name.removeprefix("rollout/dropped_"): result.metrics[name] for name in result.metrics if "dropped" in name
    }
    assert counts == {"surplus": 1, "all_right": 1, "all_wrong": 0}
    # Means are of all eight responses: six groups' worth of halves, and the two that are right.
    assert result.metrics["reward/accuracy"] == pytest.approx(5 / 8)


def test_a_small_dataset_ends_the_search(tmp_path: Path) -> None:
    """Catches rounds that ask for the same prompts again and again, and a stream that runs on."""
    config = make_config(tmp_path, algorithm={"dynamic_sampling_rounds": 9})
    rollout = FakeRollout()
    make_step(config, rollout=rollout, rewards=FakeRewards(graded(default=(0.0, 0.0))))
    asked = [name for names, _ in rollout.requests for name in names]
    assert sorted(asked) == sorted(prompt.id for prompt in PROMPTS)
    assert all(names for names, _ in rollout.requests)


def test_without_dynamic_sampling_all_groups_train(tmp_path: Path) -> None:
    """Catches groups that are dropped by default, and a second round."""
    rollout = FakeRollout()
    result = make_step(make_config(tmp_path), rollout=rollout, rewards=FakeRewards(graded(default=(0.0, 0.0))))
    assert len(rollout.requests) == 1
    assert (len(result.experience.groups), result.experience.dropped, result.metrics["rollout/dropped_all_wrong"]) == (
        2,
        [],
        0,
    )


# Rewards


def test_rewards_are_shaped_before_advantages(tmp_path: Path) -> None:
    """Catches a penalty that is not weighed, a clip after it, and shaping that overwrites what the server said."""
    # Lengths 2 and 8 of 8, buffer 4: penalties 0 and -1, times 2. Rewards 9 and 0, clipped at 3: shaped 3 and -2.
    config = make_config(tmp_path, reward={"clip": [-1, 3], "overlong_buffer_len": 4, "overlong_penalty": 2.0})
    rollout = FakeRollout(make=lambda prompt: make_group(prompt, (2, 8)))
    result = make_step(config, rollout=rollout, rewards=FakeRewards(graded(default=(9.0, 0.0))))
    assert result.experience.shaped_rewards.tolist() == [[3.0, -2.0]] * 2
    assert [[grade.reward for grade in scored.grades] for scored in result.experience.scored] == [[9.0, 0.0]] * 2
    assert (result.metrics["reward/mean"], result.metrics["reward/shaped_mean"]) == (4.5, 0.5)
    torch.testing.assert_close(advantages_of(result), torch.tensor([[ROOT_HALF, -ROOT_HALF]] * 2), rtol=1e-5, atol=0)
    assert result.metrics["reward/signal_fraction"] == 1
    row = next(iter(rollout_rows(result.experience)))
    assert (row["score"], row["reward"], row["shaped_reward"]) == (9.0, 9.0, 3.0)


def test_kl_in_the_reward(tmp_path: Path) -> None:
    """Catches KL that is in loss and reward both, a mean where a sum is due, and a turned sign.

    The fakes' engine says -1 a token, their reference -x / 1000 of token x: k1 = -1 + x / 1000.
    """
    config = make_config(
        tmp_path,
        algorithm={"advantage_estimator": "rloo", "kl_in": "reward", "kl_estimator": "k1", "init_kl_coef": 0.5},
    )
    policy = FakePolicy()
    result = make_step(config, policy=policy)
    for group, shaped in zip(result.experience.groups, result.experience.shaped_rewards.tolist(), strict=True):
        first = 10 * group.prompt.token_ids[0]
        expected = [1 - 0.5 * 2 * (-1 + first / 1000), 0 - 0.5 * (-1 + (first + 1) / 1000)]
        assert shaped == pytest.approx(expected, rel=1e-5)
    assert policy.objectives[0].kl_coef == 0


TEACHER = {"kl_in": "advantage", "kl_estimator": "k1", "init_kl_coef": 0.5}
"""Section `algorithm` with half of the difference between the policy's log-probs and its teacher's."""


NOTHING = TEACHER | {"advantage_estimator": "none"}
"""The teacher alone."""


@pytest.mark.parametrize(
    ("estimator", "of_rewards"), [("none", (0.0, 0.0)), ("dr_grpo", (0.5, -0.5)), ("reinforce", (1.0, 0.0))]
)
def test_a_teacher_in_the_advantages(tmp_path: Path, estimator: str, of_rewards: tuple[float, float]) -> None:
    """Catches one number for all tokens of a response, a turned sign, rewards that change, and KL in the loss as well.

    The engine says -1 a token, the teacher -x / 1000 of token x: log-probs that are too low by 1 - x / 1000.
    """
    policy = FakePolicy()
    config = make_config(
        tmp_path, algorithm={"advantage_estimator": estimator, **TEACHER}, reference={"path": "teacher"}
    )
    result = make_step(config, policy=policy)
    (batch,) = policy.updates
    assert batch.advantages is not None
    mask = batch.response_mask
    of_rows = torch.tensor(of_rewards).repeat(2)[:, None]
    expected = (of_rows + 0.5 * (1 - batch.input_ids / 1000)) * mask
    torch.testing.assert_close(batch.advantages * mask, expected)
    assert policy.objectives[0].kl_coef == 0
    assert result.experience.shaped_rewards.tolist() == [[1.0, 0.0]] * 2
    assert result.experience.advantages is not None
    means = expected.sum(-1) / mask.sum(-1)
    torch.testing.assert_close(result.experience.advantages.flatten(), means)


def test_a_teacher_does_not_train_what_is_masked(tmp_path: Path) -> None:
    """Catches an advantage of tokens that were taken out of the loss: responses that could not be graded."""
    policy = FakePolicy()
    config = make_config(
        tmp_path,
        algorithm={"advantage_estimator": "none", **TEACHER},
        reference={"path": "teacher"},
        reward={"max_failed_fraction": 0.9},
    )
    ungraded = Grade(None, None, {}, "failed", "no")
    failing = FakeRewards(lambda group: [ungraded, *graded()(group)[1:]])
    make_step(config, policy=policy, rewards=failing)
    (batch,) = policy.updates
    assert batch.advantages is not None
    trains = batch.response_mask.any(-1)
    assert trains.tolist() == [False, True] * 2
    assert (batch.advantages != 0).any(-1).tolist() == [False, True] * 2


@pytest.mark.parametrize(
    ("estimator", "expected"), [("dr_grpo", [0.5, -0.5]), ("rloo", [1.0, -1.0]), ("reinforce", [1.0, 0.0])]
)
def test_estimator_is_the_one_that_is_named(tmp_path: Path, estimator: str, expected: list[float]) -> None:
    """Catches a setting that is read and not used."""
    result = make_step(make_config(tmp_path, algorithm={"advantage_estimator": estimator}))
    assert advantages_of(result).tolist() == [expected] * 2


# What trains


def test_truncated_responses_can_be_masked(tmp_path: Path) -> None:
    """Catches a truncated response that trains, and one that leaves its group's statistics."""

    def make(prompt: Prompt) -> Group:
        return Group(prompt, (make_response(1, 2), make_response(3, truncated=True)))

    for masked in (False, True):
        policy = FakePolicy()
        config = make_config(tmp_path, algorithm={"mask_truncated": masked})
        result = make_step(config, rollout=FakeRollout(make=make), policy=policy)
        (batch,) = policy.updates
        assert batch.response_mask.sum(-1).tolist() == [2, 0 if masked else 1] * 2
        assert advantages_of(result)[0, 0] == pytest.approx(ROOT_HALF, rel=1e-5)


@pytest.mark.parametrize("init_kl_coef", [0.0, 0.01])
def test_a_step_whose_responses_are_all_masked(tmp_path: Path, init_kl_coef: float) -> None:
    """Catches a division by the tokens that train, of which there are none, after the weights were pushed."""

    def make(prompt: Prompt) -> Group:
        return Group(prompt, (make_response(1, 2, truncated=True), make_response(3, truncated=True)))

    config = make_config(tmp_path, algorithm={"mask_truncated": True, "init_kl_coef": init_kl_coef})
    result = make_step(config, rollout=FakeRollout(make=make))
    assert result.metrics["rollout/truncated_fraction"] == 1
    assert result.metrics["policy/entropy"] == 0


def test_masked_rows_cost_nothing(tmp_path: Path) -> None:
    """Catches forward passes over responses that are masked, since their advantage is not 0."""
    policy = FakePolicy()

    def make(prompt: Prompt) -> Group:
        return Group(prompt, (make_response(1, 2), make_response(3, truncated=True)))

    config = make_config(tmp_path, algorithm={"mask_truncated": True, "init_kl_coef": 0.0})
    make_step(config, rollout=FakeRollout(make=make), policy=policy)
    assert len(policy.updates[0]) == 2


@pytest.mark.parametrize(
    ("aggregation", "weights"),
    # Lengths 2, 1, 2, 1: six tokens, four responses, none longer than 8.
    [("token", [1 / 6] * 4), ("sequence", [1 / 8, 1 / 4] * 2), ("constant", [1 / 32] * 4)],
)
def test_loss_weights_are_those_of_the_whole_update(tmp_path: Path, aggregation: str, weights: list[float]) -> None:
    """Catches weights by another count, and none at all."""
    policy = FakePolicy()
    make_step(make_config(tmp_path, algorithm={"loss_aggregation": aggregation}), policy=policy)
    (batch,) = policy.updates
    assert batch.loss_weights is not None
    assert batch.loss_weights[:, 1].tolist() == pytest.approx(weights)


def test_groups_without_an_advantage_cost_nothing(tmp_path: Path) -> None:
    """Catches forward passes for nothing, weights that change with them, and rows with a KL term that are left out."""
    config = make_config(tmp_path, algorithm={"init_kl_coef": 0.0})
    first = order_of(config)[0].id
    rewards = FakeRewards(graded({first: [1.0, 1.0]}))
    policy, with_kl, hopeless = FakePolicy(), FakePolicy(), FakePolicy()
    make_step(config, rewards=rewards, policy=policy)
    (batch,) = policy.updates
    assert len(batch) == 2
    assert batch.loss_weights is not None
    # Six tokens in all, of which three train.
    assert float(batch.loss_weights.sum()) == pytest.approx(0.5)
    make_step(make_config(tmp_path), rewards=rewards, policy=with_kl)
    assert len(with_kl.updates[0]) == 4
    make_step(config, rewards=FakeRewards(graded(default=(0.0, 0.0))), policy=hopeless)
    assert len(hopeless.updates[0]) == 4


def test_each_update_has_weights_of_its_own(tmp_path: Path) -> None:
    """Catches counts over a step where the step makes two updates: each would be half as large."""
    policy = FakePolicy()
    make_step(make_config(tmp_path, policy={"train_batch_size": 2}), policy=policy)
    for batch in policy.updates:
        assert batch.loss_weights is not None
        assert float(batch.loss_weights.sum()) == pytest.approx(1)


def test_epochs_share_the_log_probs_from_before_the_first(tmp_path: Path) -> None:
    """Catches a second pass with a ratio of 1, also over the rows of the first update, and one pass too few or too
    many."""
    policy = FakePolicy()
    config = make_config(tmp_path, algorithm={"max_epochs": 3}, policy={"train_batch_size": 2})
    assert config.updates_per_step == 6
    make_step(config, policy=policy)
    assert policy.names == ["log_probs", *["update"] * 6, "push_weights"]
    first, second, *others = policy.updates
    assert [torch.equal(batch.input_ids, first.input_ids) for batch in others] == [True, False, True, False]
    assert first.old_log_probs is not None
    assert second.old_log_probs is not None
    for batch in policy.updates:
        assert torch.equal(batch.old_log_probs, -1.0 * batch.response_mask)


def test_loss_settings_are_those_of_the_config(tmp_path: Path) -> None:
    """Catches a setting of the loss that never reaches the policy."""
    policy = FakePolicy()
    algorithm = {
        "policy_loss": "gspo",
        "eps_clip_low": 0.1,
        "eps_clip_high": 0.4,
        "dual_clip": 3.0,
        "init_kl_coef": 0.2,
        "kl_estimator": "k2",
        "entropy_coef": 0.01,
    }
    off_policy = {
        "importance": "token",
        "importance_max": 4.0,
        "rejection": "sequence",
        "rejection_low": 0.25,
        "rejection_high": 6.0,
    }
    make_step(make_config(tmp_path, algorithm=algorithm, off_policy=off_policy), policy=policy)
    assert policy.objectives == [
        PolicyObjective(
            "gspo",
            ClipBounds(0.1, 0.4, 3.0, (1.0, 1.05)),
            kl_coef=0.2,
            kl_estimator="k2",
            entropy_coef=0.01,
            off_policy=OffPolicyCorrection("token", 4.0, "sequence", 0.25, 6.0),
        )
    ]


def test_kl_coefficient_is_adapted_and_resumed(tmp_path: Path) -> None:
    """Catches a weight that does not move, moves the wrong way, or begins anew on resuming.

    The fake's KL is 5e-4, more than 20 % above the target: 4 responses of a horizon of 8 raise it by 0.2 x 1/2.
    """
    config = make_config(tmp_path, algorithm={"init_kl_coef": 0.1, "kl_target": 1e-4, "kl_horizon": 8})
    policy = FakePolicy()
    trainer = make_trainer(config, policy=policy)
    trainer.step()
    trainer.step()
    assert [objective.kl_coef for objective in policy.objectives] == pytest.approx([0.1, 0.11])
    resumed = make_trainer(config, policy=policy)
    resumed.restore(TrainerState.from_json(json.loads(json.dumps(asdict(trainer.state)))))
    resumed.step()
    assert policy.objectives[2].kl_coef == pytest.approx(0.121)


def test_kl_coefficient_rests_while_the_policy_does(tmp_path: Path) -> None:
    """Catches a weight that falls to nothing in the steps in which a policy cannot move away."""
    algorithm = {"init_kl_coef": 0.1, "kl_target": 1e-4, "kl_horizon": 8}
    config = make_config(tmp_path, algorithm=algorithm, debug={"rollout_only": True})
    trainer = trainer_of(config, replay_stages(make_stages(config), None, None, config.debug.rollout_only))
    assert [trainer.step().metrics["policy/kl_coef"] for _ in range(2)] == [0.1, 0.1]
    assert trainer.state.kl_coef is None


class DriftingPolicy(FakePolicy):
    """4 tokens with KL 2 in all in its first update, 12 with 30 in its second."""

    def step(self, batch: Any, objective: Any, apply: bool = True) -> StepStats[Any]:
        """Only these sums."""
        super().step(batch, objective, apply)
        tokens, kl = [(4.0, 2.0), (12.0, 30.0)][len(self.updates) - 1]
        return StepStats(0.0, PolicySums(*[0.0] * len(PolicySums._fields))._replace(tokens=tokens, kl=kl), applied=True)


def test_kl_before_a_step_is_that_of_its_first_update(tmp_path: Path) -> None:
    """Catches KL that the step itself brought about, taken for a reference of other weights."""
    result = make_step(make_config(tmp_path, policy={"train_batch_size": 2}), policy=DriftingPolicy())
    assert (result.metrics["policy/kl_before"], result.metrics["policy/kl"]) == (0.5, 2.0)


def test_checkpoints_of_before_are_understood() -> None:
    """Catches a run that cannot be resumed since a key of the state is new."""
    state = TrainerState.from_json({"step": 1, "version": 1, "prompts": {}, "running_reward": None})
    assert state.kl_coef is None


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"algorithm": {"reward_momentum": 0.1, "advantage_estimator": "rloo"}}, "reward_momentum is for grpo"),
        ({"algorithm": {"kl_estimator": "k1"}}, "k1 has no gradient on average"),
        ({"algorithm": {"kl_target": 0.1, "init_kl_coef": 0.0}}, "set init_kl_coef above 0"),
        ({"algorithm": {"dual_clip": 3.0, "policy_loss": "cispo"}}, "dual_clip is for policy_loss ppo and gspo"),
        ({"algorithm": {"dual_clip": 3.0, "policy_loss": "sapo"}}, "dual_clip is for policy_loss ppo and gspo"),
        ({"algorithm": {"soft_clip": [1.0, 2.0]}}, "soft_clip is for policy_loss sapo; with ppo leave it out"),
        ({"algorithm": {"policy_loss": "sapo", "eps_clip_high": 0.28}}, "no effect with policy_loss sapo"),
        ({"algorithm": {"advantage_estimator": "none"}}, "another model than model.path in reference.path"),
        ({"algorithm": NOTHING | {"kl_in": "reward"}, "reference": {"path": "t"}}, "kl_in reward is for rewards"),
        (
            {"algorithm": NOTHING | {"dynamic_sampling_rounds": 2}, "reference": {"path": "t"}},
            "dynamic_sampling_rounds is for rewards",
        ),
        ({"algorithm": NOTHING, "reference": {"path": "t"}, "reward": {"clip": [0, 1]}}, "reward.clip is for rewards"),
        ({"algorithm": {**TEACHER, "policy_loss": "gspo"}}, "one ratio for all tokens of a response"),
        ({"algorithm": {"init_kl_coef": 0.0}, "reference": {"path": "teacher"}}, "reference.path has no effect"),
        ({"algorithm": {**TEACHER, "init_kl_coef": 0.0}}, "kl_in advantage has no effect"),
        ({"algorithm": {**TEACHER, "kl_estimator": "k3"}}, "kl_in advantage needs kl_estimator k1, and it is k3"),
        ({"algorithm": {**TEACHER, "advantage_estimator": "gae"}}, "gae spreads the KL over tokens"),
        ({"algorithm": TEACHER, "rollout": {"top_p": 0.9}}, "kl_in advantage needs rollout.top_p 1"),
        ({"algorithm": {"kl_in": "reward"}}, "kl_in reward is not for grpo"),
        (
            {"algorithm": {"kl_in": "reward", "advantage_estimator": "rloo"}, "rollout": {"top_p": 0.9}},
            "kl_in reward needs rollout.top_p 1",
        ),
        ({"rollout": {"top_p": 0.9, "max_staleness": 1}}, "off_policy.importance token needs rollout.top_p 1"),
        ({"rollout": {"in_flight": "drain"}}, "drain is for rollout.max_staleness above 0"),
        (
            {
                "algorithm": {"dynamic_sampling_rounds": 2, "advantage_estimator": "gae"},
                "rollout": {"n_samples_per_prompt": 1},
                "policy": {"train_batch_size": 2},
            },
            "one answer cannot differ",
        ),
        ({"algorithm": {"kl_target": 0.1, "kl_horizon": 3}}, "kl_horizon 3 is below the 4 responses"),
        (
            {"rollout": {"n_samples_per_prompt": 1}, "policy": {"train_batch_size": 2}},
            "grpo compares the responses to a prompt",
        ),
        ({"reward": {"clip": [1.0, 1.0]}}, "the first bound must be below the second"),
        ({"reward": {"overlong_buffer_len": 8}}, "overlong_buffer_len 8 is not below rollout.generate_max_len 8"),
    ],
)
def test_settings_that_say_nothing_together_are_refused(
    tmp_path: Path, sections: dict[str, dict[str, Any]], message: str
) -> None:
    """Catches a run that goes on with a setting that has no effect."""
    with pytest.raises(ConfigError, match=message):
        check_train(make_config(tmp_path, **sections))
