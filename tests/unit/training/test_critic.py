"""A critic in a step, driven with fakes; what is checked before it is started; and a real run that is resumed."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from openr1.actors.rl import train_demand
from openr1.config.checks import check_train
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError
from openr1.inputs.datasets import Datasets, load_datasets
from openr1.rollout.experience import StepResult
from openr1.tracking.loggers.client import Loggers
from openr1.training.rl import RLJob
from openr1.training.run import Run
from openr1.training.stages import Stages
from tests.fakes import FakeCritic, FakePolicy, FakeRewards, graded, make_config, make_stages
from tests.running import ROOT, read_jsonl, run_grpo, write_config
from tests.unit.training.test_trainer import PROMPTS, advantages_of, make_step, trainer_of

BASE_MODEL = ROOT / "data/models/tiny_base"
GAE = {"advantage_estimator": "gae", "init_kl_coef": 0.0}


def make_gae_config(folder: Path, algorithm: dict[str, Any] | None = None, **sections: Any) -> TrainConfig:
    """Two prompts of two responses (of two tokens and of one), with a critic and without a reference."""
    return make_config(folder, algorithm={**GAE, **(algorithm or {})}, **sections)


def make_steps(config: TrainConfig, number: int = 1, **stages: Any) -> tuple[list[tuple[str, Any]], list[StepResult]]:
    """All calls of policy and critic in their order, and the steps."""
    calls: list[tuple[str, Any]] = []
    trainer = trainer_of(
        config, make_stages(config, policy=FakePolicy(calls=calls), critic=FakeCritic(calls=calls), **stages)
    )
    return calls, [trainer.step() for _ in range(number)]


def run_to_its_end(config: TrainConfig, stages: Stages, resume: bool) -> None:
    """A run over six prompts."""
    job = RLJob(config, Datasets(PROMPTS, []), stages)
    Run(config, job, Loggers(config.tracking, config.run, {}), stages.interrupts).go(resume)


def of(calls: list[tuple[str, Any]], name: str) -> list[Any]:
    """What the calls of this name were given."""
    return [argument for called, argument in calls if called == name]


# Steps


def test_values_come_before_all_updates_and_both_learn_at_once(tmp_path: Path) -> None:
    """Catches values under weights that have learned from the batch, and a policy that waits for the critic."""
    calls, _ = make_steps(make_gae_config(tmp_path, {"max_epochs": 2}, policy={"train_batch_size": 2}))
    order = ["values", *["update_critic"] * 4, "log_probs", *["update"] * 4, *["collected"] * 4, "push_weights"]
    assert [name for name, _ in calls] == order
    whole = of(calls, "values")[0]
    for epoch in (of(calls, "update_critic")[:2], of(calls, "update_critic")[2:]):
        assert torch.equal(torch.cat([part.input_ids for part in epoch]), whole.input_ids)
        for part in epoch:
            # Its three tokens count alike.
            assert part.loss_weights[part.response_mask].tolist() == pytest.approx([1 / 3] * 3)


def test_step_by_hand(tmp_path: Path) -> None:
    """Catches advantages of responses instead of tokens, whitening by n, or over prompts; and wrong metrics.

    gamma = lambda = 1/2, values 1/4. Two tokens, rewarded with 1: delta 3/4 and 1/8 - 1/4 = -1/8, so 3/4 and -1/8 +
    3/16 = 1/16. One token, rewarded with 0: -1/4. The mean of 1/16, 3/4, -1/4 is 3/16; squares of the differences -1/8,
    9/16, -7/16 add up to 134/256, twice, over 6 - 1.
    """
    calls, (result,) = make_steps(make_gae_config(tmp_path, {"gamma": 0.5, "lambd": 0.5}, critic={"value_clip": 0.3}))
    std = math.sqrt(2 * 134 / 256 / 5)
    first, last, other = -1 / 8 / std, 9 / 16 / std, -7 / 16 / std
    expected = torch.tensor([[0, first, last], [0, other, 0]] * 2)
    torch.testing.assert_close(of(calls, "update")[0].advantages, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        advantages_of(result), torch.tensor([[(first + last) / 2, other]] * 2), rtol=1e-5, atol=0
    )
    (learned,) = of(calls, "update_critic")
    assert learned.returns.tolist() == [[0, 5 / 16, 1], [0, 0, 0]] * 2
    assert learned.values.tolist() == [[0, 1 / 4, 1 / 4], [0, 1 / 4, 0]] * 2
    assert result.experience.rewards.tolist() == [[1, 0], [1, 0]]
    metrics = {name: value for name, value in result.metrics.items() if name.startswith("critic/")}
    # The fake's first update has loss 1 and norm 10. Its values are all alike.
    assert metrics == {
        "critic/loss": 1,
        "critic/grad_norm": 10,
        "critic/value_mean": 0.25,
        "critic/return_mean": pytest.approx(21 / 16 / 3),
        "critic/explained_variance": pytest.approx(0.0),
    }
    assert "time/values_seconds" in result.metrics


def test_clip_reaches_the_critic(tmp_path: Path) -> None:
    """Catches a bound that is read and not used."""
    critic = FakeCritic()
    make_step(make_gae_config(tmp_path, critic={"value_clip": 0.3}), critic=critic)
    assert [objective.clip for objective in critic.objectives] == [0.3]


def test_distance_costs_each_token_its_own(tmp_path: Path) -> None:
    """Catches KL that is summed up at the last token, counted twice, or taken off by the group estimators' path alone.

    The fake reference gives token x -x / 1000, the engine -1: with k1 a token costs coefficient x (x / 1000 - 1).
    """
    config = make_gae_config(tmp_path, {"init_kl_coef": 0.5, "kl_in": "reward", "kl_estimator": "k1"})
    calls, (result,) = make_steps(config)
    (learned,) = of(calls, "update_critic")
    for row, score in enumerate((1.0, 0.0, 1.0, 0.0)):
        costs = [0.5 * (int(token) / 1000 - 1) for token in learned.input_ids[row][learned.response_mask[row]]]
        # Without discount: the score, less what this and later tokens cost.
        expected = [score - math.fsum(costs[start:]) for start in range(len(costs))]
        assert learned.returns[row][learned.response_mask[row]].tolist() == pytest.approx(expected, rel=1e-5)
        assert float(result.experience.shaped_rewards.flatten()[row]) == pytest.approx(expected[0], rel=1e-5)


def test_ungraded_responses_train_neither(tmp_path: Path) -> None:
    """Catches a failure that the critic learns as a reward of 0, or that enters the mean of the advantages.

    Left are tokens with advantages 1 - 1/4 = 3/4 alone, which are equal: normalized, they are 0.
    """
    config = make_gae_config(tmp_path, reward={"max_failed_fraction": 0.5})
    calls, (result,) = make_steps(config, rewards=FakeRewards(graded(default=(1.0, None))))
    for name in ("update", "update_critic"):
        assert of(calls, name)[0].response_mask.any(dim=1).tolist() == [True, False] * 2
    assert not advantages_of(result).any()
    assert result.metrics["critic/return_mean"] == 1


def test_warm_up_leaves_the_policy_alone(tmp_path: Path) -> None:
    """Catches a policy that learns from values that mean nothing yet, and steps without the policy's metrics."""
    calls, results = make_steps(make_gae_config(tmp_path, critic={"warmup_steps": 2}), 3)
    warm = ["values", "update_critic", "evaluate", "collected", "push_weights"]
    assert [name for name, _ in calls] == [*warm, *warm, *["update" if name == "evaluate" else name for name in warm]]
    assert [result.metrics["policy/grad_norm"] for result in results] == [0, 0, 1]
    assert results[0].metrics.keys() == results[2].metrics.keys()
    assert [result.metrics["sync/version"] for result in results] == [1, 2, 3]


def test_other_estimators_have_no_critic(tmp_path: Path) -> None:
    """Catches a run that pays for values which nobody reads."""
    grpo, with_critic = make_config(tmp_path), make_gae_config(tmp_path, policy={"num_ranks": 2})
    assert not grpo.has_critic
    assert not train_demand(grpo).critic
    assert train_demand(with_critic).critic


# Configuration


def test_two_lambdas_by_hand(tmp_path: Path) -> None:
    """Catches one lambda for advantages and returns, and the same for all lengths.

    gamma 1, alpha 1, values 1/4. Two tokens have lambda 1/2, rewarded with 1: delta 3/4 and 0, so 3/4 and 3/8. One
    token, rewarded with 0: -1/4. Around the mean 7/24: 2/24, 11/24 and -13/24, whose squares add up to 294/576, twice.
    Returns of lambda 0 are delta + value: 1/4 and 1; 0.
    """
    calls, _ = make_steps(make_gae_config(tmp_path, {"lambd_alpha": 1.0, "critic_lambd": 0.0}))
    std = math.sqrt(2 * 294 / 576 / 5)
    rows = [[0, 2 / 24 / std, 11 / 24 / std], [0, -13 / 24 / std, 0]]
    torch.testing.assert_close(of(calls, "update")[0].advantages, torch.tensor(rows * 2), rtol=1e-5, atol=0)
    (learned,) = of(calls, "update_critic")
    assert learned.returns.tolist() == [[0, 1 / 4, 1], [0, 0, 0]] * 2


def test_one_response_a_prompt_is_enough(tmp_path: Path) -> None:
    """Catches a check for estimators that compare responses."""
    check_train(make_gae_config(tmp_path, rollout={"n_samples_per_prompt": 1}, policy={"train_batch_size": 2}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"critic": {"learning_rate": 1e-5}}, "are for gae; with grpo leave them out"),
        ({"algorithm": {"lambd": 0.95}}, "are for gae"),
        ({"algorithm": {"critic_lambd": 1.0}}, "are for gae"),
        ({"algorithm": {**GAE, "lambd": 0.95, "lambd_alpha": 0.05}}, "lambd has no effect with lambd_alpha"),
        ({"algorithm": GAE, "critic": {"warmup_steps": 3}}, "critic.warmup_steps 3 is not below num_steps 3"),
        ({"algorithm": {**GAE, "reward_momentum": 0.5}}, "reward_momentum is for grpo; with gae"),
        (
            {"algorithm": GAE, "critic": {"warmup_steps": 1}, "optimizer": {"lr_warmup_steps": 2}},
            "lr_warmup_steps 2 is not below the 2 optimizer steps",
        ),
    ],
)
def test_settings_that_say_nothing_are_refused(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    """Catches a setting that is silently without effect, and a schedule that counts steps the policy does not make."""
    with pytest.raises(ConfigError, match=message):
        check_train(make_config(tmp_path, **sections))


def test_critic_of_other_tokens_is_refused(
    tmp_path: Path, tiny_model: Callable[[bool], Path], countdown_files: Path
) -> None:
    """Catches a critic that reads tokens as others than the policy wrote."""
    other = shutil.copytree(tiny_model(True), tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other)
    config = make_gae_config(
        tmp_path,
        model={"path": str(tiny_model(True))},
        critic={"path": str(other)},
        data={"train": str(countdown_files / "train.jsonl")},
    )
    with pytest.raises(ConfigError, match=r"^critic\.path .*other has other tokens than model\.path"):
        load_datasets(config)
    config = make_config(
        tmp_path, model=config.model.model_dump(), reference={"path": str(other)}, data=config.data.model_dump()
    )
    with pytest.raises(ConfigError, match=r"^reference\.path .*other has other tokens than model\.path"):
        load_datasets(config)


def test_reference_with_too_few_embeddings_is_refused(
    tmp_path: Path, tiny_model: Callable[[bool], Path], countdown_files: Path
) -> None:
    """Catches a teacher that is asked for the log-prob of a token beyond its embedding, in the middle of a run."""
    other = shutil.copytree(tiny_model(True), tmp_path / "other")
    settings = json.loads((other / "config.json").read_text())
    needed = len(AutoTokenizer.from_pretrained(other))
    for vocab_size, is_enough in ((needed - 1, False), (needed, True)):
        (other / "config.json").write_text(json.dumps(settings | {"vocab_size": vocab_size}))
        config = make_config(
            tmp_path,
            model={"path": str(tiny_model(True))},
            reference={"path": str(other)},
            data={"train": str(countdown_files / "train.jsonl")},
        )
        if is_enough:
            load_datasets(config)
            continue
        with pytest.raises(ConfigError, match=rf"has {needed - 1} embeddings, and the policy's tokens need {needed}"):
            load_datasets(config)


# Runs


def test_checkpoint_has_the_critic(tmp_path: Path) -> None:
    """Catches a resumed run whose critic begins anew."""
    config = make_gae_config(tmp_path)
    run_to_its_end(config, make_stages(config, critic=FakeCritic()), resume=False)
    assert (config.run.folder / "checkpoints/step_000003/critic").is_dir()
    longer, second = config.model_copy(update={"num_steps": 4}), FakeCritic()
    run_to_its_end(longer, make_stages(longer, critic=second), resume=True)
    assert second.calls[0] == ("load", config.run.folder / "checkpoints/step_000003/critic")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_critic_learns_in_a_real_run(countdown_files: Path, tmp_path: Path) -> None:
    """Catches a critic that learns nothing, is lost on resuming or is pushed to the engines, and a warm-up that trains.

    One response a prompt. Rewards are between 1/2 and 1, and so are all returns; values begin at 0 exactly.
    """
    config = write_config(
        tmp_path / "config.yaml",
        BASE_MODEL,
        countdown_files,
        data={"held_out": None},
        rollout={"rollout_batch_size": 16, "n_samples_per_prompt": 1},
        policy={"train_batch_size": 16},
        reward={"clip": [0.5, 1.0]},
        algorithm={"advantage_estimator": "gae", "max_epochs": 4},
        critic={"learning_rate": 1e-3, "value_clip": None, "warmup_steps": 1},
        checkpoint={"save_steps": 0},
        num_steps=2,
    )
    run_grpo(config)
    run_grpo(config, "--num_steps", "4", "--resume")
    folder = tmp_path / "runs/small"
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["critic/value_mean"] == 0 for row in rows] == [True, False, False, False]
    assert [row["policy/grad_norm"] == 0 for row in rows] == [True, False, False, False]
    # The policy is the reference until the second step's updates.
    assert rows[0]["policy/kl"] < 1e-6
    assert all(0.5 <= row["critic/return_mean"] <= 1 for row in rows)
    assert abs(rows[3]["critic/value_mean"] - rows[3]["critic/return_mean"]) < 0.25
    assert rows[3]["critic/loss"] < rows[0]["critic/loss"] / 2
    assert all(row["rollout/mismatch_abs_mean"] < 1e-5 for row in rows)
    assert (folder / "logs/critic_0.log").exists()
