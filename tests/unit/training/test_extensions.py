"""Estimators, losses and environments named by import path: found in every process, used, and told where wrong."""

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from openr1.actors.engines import train_engine_settings
from openr1.actors.rl import train_demand
from openr1.algorithms.advantages import ESTIMATORS
from openr1.algorithms.losses import LOSSES
from openr1.algorithms.token_ops import TokenOutputs
from openr1.config.checks import check_train
from openr1.config.load import load_config, to_yaml
from openr1.config.train import ADVANTAGE_ESTIMATORS, ENVS, POLICY_LOSSES, TrainConfig
from openr1.errors import ConfigError, TrainingError
from openr1.placement.group import Places
from openr1.rollout.env import SingleTurn, build_env
from openr1.types import Group, Response
from tests.fakes import FakePolicy, FakeRewards, FakeRollout, graded, make_config, make_prompt, make_response
from tests.running import ROOT
from tests.unit.training.test_trainer import advantages_of, make_step
from tests.unit.training.test_trainer_settings import order_of

MINE = '''
import torch

NUMBER = 3


def best_of_group(rewards, valid_mask):
    """1 for the best graded response of each group, -0.5 for the others, 0 for ungraded ones."""
    best = rewards == rewards.masked_fill(~valid_mask, -torch.inf).amax(-1, keepdim=True)
    return torch.where(valid_mask, torch.where(best, 1.0, -0.5), 0.0)


def one_a_prompt(rewards, valid_mask):
    return rewards.mean(-1)


def endless(rewards, valid_mask):
    return rewards / 0


def towards_zero(log_probs, old_log_probs, advantages, mask, bounds):
    """Has a gradient where the advantage is 0, too."""
    return -advantages * log_probs + log_probs.square(), mask & False


def mean_loss(log_probs, old_log_probs, advantages, mask, bounds):
    return (-advantages * log_probs).mean(), mask


def clipped_rows(log_probs, old_log_probs, advantages, mask, bounds):
    return -advantages * log_probs, mask.any(-1)


def linear(log_probs, old_log_probs, advantages, mask, bounds):
    """-A log_prob, "clipped" where the advantage exceeds the bound above."""
    return -advantages * log_probs, advantages > bounds.high


class Twice:
    """Says everything twice; the repetition is not sampled."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    async def run(self, prompt, generate):
        from dataclasses import replace

        once = await generate(prompt.token_ids)
        tokens, none = once.token_ids, (0.0,) * len(once.token_ids)
        mask = once.loss_mask + (False,) * len(tokens)
        return replace(once, token_ids=tokens * 2, log_probs=once.log_probs + none, loss_mask=mask)
'''
KEYS = {
    "algorithm.advantage_estimator": "best_of_group",
    "algorithm.policy_loss": "linear",
    "rollout.env": "Twice",
}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file outside the package that defines one of each."""
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return path


def config_with(folder: Path, key: str, name: str, **sections: Any) -> TrainConfig:
    """A config in which one key names an extension."""
    section, last = key.split(".")
    return make_config(folder, **{section: {**sections.pop(section, {}), last: name}}, **sections)


def value_of(config: TrainConfig, key: str) -> str:
    """The value of a key in two parts."""
    section, last = key.split(".")
    return str(getattr(getattr(config, section), last))


# Names


@pytest.mark.parametrize(("key", "name"), KEYS.items())
def test_a_file_means_the_same_everywhere(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch, key: str, name: str
) -> None:
    """Catches a relative path that a worker, a resumed run or a replay looks for in another folder."""
    monkeypatch.chdir(mine.parent)
    config = config_with(tmp_path, key, f"mine.py:{name}")
    assert value_of(config, key) == f"{mine}:{name}"
    check_train(config)
    kept = tmp_path / "config.yaml"
    kept.write_text(to_yaml(config), encoding="utf-8")
    monkeypatch.chdir(ROOT)
    assert load_config(TrainConfig, kept, []) == config


def test_modules_stay_as_they_are(tmp_path: Path) -> None:
    """Catches a module's name that is taken for a file's."""
    name = "openr1.algorithms.advantages:plain_advantages"
    config = config_with(tmp_path, "algorithm.advantage_estimator", name)
    check_train(config)
    assert config.algorithm.advantage_estimator == name


def test_names_of_the_config_are_those_that_exist() -> None:
    """Catches a part that is listed for the config and missing in its registry, or the other way round: the config
    package may import neither, so each name is written twice.
    """
    assert set(POLICY_LOSSES) == set(LOSSES)
    assert set(ADVANTAGE_ESTIMATORS) == {*ESTIMATORS, "gae", "gdpo"}
    assert [type(build_env(name, None)) for name in ENVS] == [SingleTurn]


@pytest.mark.parametrize("key", KEYS)
def test_a_name_that_is_none_is_refused_with_those_there_are(tmp_path: Path, key: str) -> None:
    """Catches a misspelt built-in name that is taken for an import path, and fails when the actors have started."""
    known = {"algorithm.advantage_estimator": "dr_grpo", "algorithm.policy_loss": "gspo", "rollout.env": "single_turn"}
    with pytest.raises(ConfigError, match=rf"{key} is 'gprpo': .*{known[key]}.* or an import path"):
        config_with(tmp_path, key, "gprpo")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package.rewards:f", "no module named 'no_such_package'"),
        ("{folder}/other.py:f", "no file .*other.py"),
        ("{folder}/mine.py:lineer", "no attribute 'lineer': did you mean 'linear'"),
        ("{folder}/mine.py:NUMBER", "is a int; it must be a function or a class"),
        ("{folder}/broken.py:f", "failed: ZeroDivisionError: .*broken.py:2"),
        ("{folder}/mine.py:", "is not an import path"),
    ],
    ids=["module", "file", "attribute", "not_callable", "raises", "no_name"],
)
def test_what_cannot_be_used_is_told_before_anything_starts(
    tmp_path: Path, mine: Path, key: str, name: str, message: str
) -> None:
    """Catches a typo that shows as a traceback of an actor minutes later, and a message that does not say which key."""
    (tmp_path / "broken.py").write_text("\n1 / 0\n", encoding="utf-8")
    config = config_with(tmp_path, key, name.format(folder=tmp_path))
    with pytest.raises(ConfigError, match=message) as caught:
        check_train(config)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"{key}: ")
    assert "\n" not in str(caught.value)


def test_the_command_line_tells_it_in_one_line(tmp_path: Path, mine: Path) -> None:
    """Catches an extension that `--dry-run` passes over, or reports with a traceback or another exit code."""
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(config_with(tmp_path, "rollout.env", f"{mine}:Thrice")), encoding="utf-8")
    command = [sys.executable, "-m", "cli", "train", "--config", str(config), "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "rollout.env: " in line
    assert "no attribute 'Thrice'" in line


# Use


def rollout_of(number: int) -> FakeRollout:
    """Responses of one token each, so many for each prompt."""
    responses = tuple(make_response(1 + index) for index in range(number))
    return FakeRollout(make=lambda prompt: Group(prompt, responses))


def test_the_estimator_is_used(tmp_path: Path, mine: Path) -> None:
    """Catches an estimator that is imported and not called, or called with something else than rewards and validity.

    Rewards 0.2, none, 0.7: -1/2, 0 and 1.
    """
    policy = FakePolicy()
    config = config_with(
        tmp_path,
        "algorithm.advantage_estimator",
        f"{mine}:best_of_group",
        rollout={"n_samples_per_prompt": 3},
        policy={"train_batch_size": 6},
        reward={"max_failed_fraction": 0.5},
    )
    check_train(config)
    rewards = FakeRewards(graded(default=(0.2, None, 0.7)))
    result = make_step(config, rewards=rewards, policy=policy, rollout=rollout_of(3))
    assert advantages_of(result).tolist() == [[-0.5, 0.0, 1.0]] * 2
    (batch,) = policy.updates
    assert batch.advantages is not None
    assert batch.advantages.tolist() == [[0, -0.5], [0, 0], [0, 1]] * 2


def test_the_loss_is_used(tmp_path: Path, mine: Path) -> None:
    """Catches a loss that is checked and not used, a bound that does not reach it, and an objective that only this
    process can resolve.

    One token has log-prob -2 and advantage 1, the other -3 and -1, each with weight 1/2: 1/2 x 2 - 1/2 x 3. Above the
    bound is one of both.
    """
    policy = FakePolicy()
    config = config_with(
        tmp_path,
        "algorithm.policy_loss",
        f"{mine}:linear",
        algorithm={"advantage_estimator": "rloo", "init_kl_coef": 0.0, "eps_clip_high": 0.5},
        rollout={"rollout_batch_size": 1},
        policy={"train_batch_size": 2},
    )
    check_train(config)
    make_step(config, policy=policy, rollout=rollout_of(2))
    (objective,), (batch,) = policy.objectives, policy.updates
    log_probs = torch.tensor([[0.0, -2.0], [0.0, -3.0]], requires_grad=True)
    outputs = TokenOutputs(log_probs, torch.zeros(2, 2), torch.zeros(2, 2))
    # Sent to a rank, an objective is pickled.
    loss, sums = pickle.loads(pickle.dumps(objective))(outputs, batch)
    assert loss.item() == pytest.approx(-0.5)
    assert objective.sums_type(*sums.tolist()).clipped == 1
    loss.backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [[0, -0.5], [0, 0.5]]


def test_rows_without_an_advantage_reach_a_loss_of_ones_own(tmp_path: Path, mine: Path) -> None:
    """Catches rows that are left out because the built-in losses have no gradient there, though this one has.

    Without a reference and an entropy bonus; the responses to one prompt have the same reward.
    """
    policy = FakePolicy()
    config = config_with(tmp_path, "algorithm.policy_loss", f"{mine}:towards_zero", algorithm={"init_kl_coef": 0.0})
    first = order_of(config)[0].id
    make_step(config, policy=policy, rewards=FakeRewards(graded({first: [1.0, 1.0]})))
    (batch,) = policy.updates
    assert batch.advantages is not None
    assert len(batch) == 4
    assert int((batch.advantages == 0).all(-1).sum()) == 2


@pytest.mark.parametrize("name", ["one_a_prompt", "endless"])
def test_advantages_that_cannot_be_are_refused(tmp_path: Path, mine: Path, name: str) -> None:
    """Catches advantages that are spread over the wrong responses, or that make the weights NaN."""
    policy = FakePolicy()
    config = config_with(tmp_path, "algorithm.advantage_estimator", f"{mine}:{name}")
    with pytest.raises(TrainingError, match=rf"algorithm\.advantage_estimator .*mine\.py:{name} returned"):
        make_step(config, policy=policy)
    assert policy.calls == []


@pytest.mark.parametrize("name", ["mean_loss", "clipped_rows"])
def test_losses_that_are_not_of_tokens_are_refused(tmp_path: Path, mine: Path, name: str) -> None:
    """Catches a mean that is taken for the loss of every token, and so counts as often as there are tokens."""
    policy = FakePolicy()
    make_step(config_with(tmp_path, "algorithm.policy_loss", f"{mine}:{name}"), policy=policy)
    (objective,), (batch,) = policy.objectives, policy.updates
    zeros = torch.zeros(batch.input_ids.shape)
    with pytest.raises(TrainingError, match=rf"algorithm\.policy_loss .*mine\.py:{name} returned .* must be per token"):
        objective(TokenOutputs(zeros, zeros, zeros), batch)


def test_the_environment_reaches_the_engines(tmp_path: Path, mine: Path) -> None:
    """Catches engines that run single turns whatever the config says, and an environment without its tokenizer."""
    config = config_with(tmp_path, "rollout.env", f"{mine}:Twice", rollout={"num_engines": 2, "kv_cache_gib": 1.0})
    check_train(config)
    names = [settings.env for settings in train_engine_settings(config, Places.on_cpu(train_demand(config)))]
    assert names == [f"{mine}:Twice"] * 2
    env: Any = build_env(names[0], "the tokenizer")
    assert env.tokenizer == "the tokenizer"

    class Policy:
        async def __call__(self, token_ids: Sequence[int]) -> Response:
            return make_response(1, 2)

        def room(self, token_ids: Sequence[int]) -> int:
            return 8

    response = asyncio.run(env.run(make_prompt(), Policy()))
    assert (response.token_ids, response.loss_mask) == ((1, 2, 1, 2), (True, True, False, False))


def test_settings_of_built_in_estimators_are_refused(tmp_path: Path, mine: Path) -> None:
    """Catches a running reward, or a critic's discount, that is accepted and has no effect on an estimator of one's
    own."""
    for algorithm, message in [({"reward_momentum": 0.5}, "reward_momentum is for grpo"), ({"lambd": 0.9}, "for gae")]:
        config = config_with(tmp_path, "algorithm.advantage_estimator", f"{mine}:best_of_group", algorithm=algorithm)
        with pytest.raises(ConfigError, match=message):
            check_train(config)
