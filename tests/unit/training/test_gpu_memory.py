"""Engines and training in turns (`placement.sleep`): the order of a whole run, driven with fakes, and its limits."""

from pathlib import Path
from typing import Any

import pytest

from openr1.config.checks import check_train
from openr1.errors import ConfigError
from openr1.inputs.datasets import Datasets
from openr1.tracking.loggers.client import Loggers
from openr1.training.rl import RLJob
from openr1.training.run import Run
from openr1.types import Group, Prompt
from tests.fakes import (
    FakeCritic,
    FakeMemory,
    FakePolicy,
    FakeRollout,
    make_config,
    make_group,
    make_response,
    make_stages,
)
from tests.unit.training.test_run import HELD_OUT, PROMPTS, make_evaluated


def names_of_a_run(folder: Path) -> list[str]:
    """The calls of a run with a critic, old log-probs, checks of the weights and evaluations; repeated ones once."""
    config = make_evaluated(
        folder,
        1,
        algorithm={"advantage_estimator": "gae", "init_kl_coef": 0.0},
        policy={"train_batch_size": 2},
        rollout={"verify_steps": 1},
        checkpoint={"save_steps": 1},
        num_steps=2,
    )
    calls: list[tuple[str, Any]] = []

    def make(prompt: Prompt) -> Group:
        calls.append(("generate", prompt))
        return make_group(prompt)

    policy = FakePolicy(calls=calls)

    def make_as_policy(prompt: Prompt) -> Group:
        calls.append(("generate", prompt))
        return Group(prompt, (make_response(1, log_prob=-(len(policy.updates) + 1.0)),))

    stages = make_stages(
        config,
        policy=policy,
        critic=FakeCritic(calls=calls),
        rollout=FakeRollout(make=make),
        per_engine_rollouts=[FakeRollout(make=make_as_policy)],
        memory=FakeMemory(calls),
        comparable=False,
    )
    job = RLJob(config, Datasets(PROMPTS, HELD_OUT), stages)
    Run(config, job, Loggers(config.tracking, config.run, {}), stages.interrupts).go(resume=False)
    names = [name for name, _ in calls]
    return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]


def test_whose_turn_it_is_in_a_run(tmp_path: Path) -> None:
    """Catches an engine that is asked to generate, be it for an evaluation or a check, while training has its memory;
    an update without its state; and weights that are pushed to engines which cannot take the memory yet.
    """
    push, check = ["for_generation", "push_weights"], ["generate", "log_probs"]
    step = ["generate", "values", "for_training", "update_critic", "log_probs", "update", "collected", *push]
    # The evaluation before training and the first step's sampling are one entry, as are those between two steps.
    start, last = [*push, *check], [*check, "save", "generate"]
    assert names_of_a_run(tmp_path) == [*start, *step, *check, "save", *step, *last]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"placement": {"layout": "separate"}}, "gives them GPUs of their own: take layout colocated"),
        (
            {"placement": {"layout": "half"}, "rollout": {"max_staleness": 1}},
            "placement.layout half gives them GPUs of their own",
        ),
        ({"rollout": {"max_staleness": 1}}, "needs rollout.max_staleness 0, and it is 1"),
        ({"policy": {"zero_stage": 3}}, r"needs policy.zero_stage 2, and it is 3.*optimizer.offload cpu"),
        ({"policy": {"zero_stage": 1}}, r"needs policy.zero_stage 2, and it is 1"),
        ({"debug": {"replay": "somewhere"}}, "needs engines, and debug.replay starts none"),
    ],
)
def test_what_sleep_does_not_go_with(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    """Catches a run that ends in DeepSpeed's own words, an engine that sleeps while it should sample ahead, and a
    setting that does nothing.
    """
    config = make_config(tmp_path, **sections)
    check_train(config)
    placement = config.placement.model_copy(update={"sleep": True})
    with pytest.raises(ConfigError, match=message):
        check_train(config.model_copy(update={"placement": placement}))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"placement": {"layout": "colocated"}},
        {"placement": {"layout": "cpu"}},
        {"policy": {"zero_stage": 3}, "optimizer": {"offload": "cpu"}},
    ],
)
def test_what_sleep_goes_with(tmp_path: Path, sections: dict[str, Any]) -> None:
    """Catches a refusal of what works."""
    placement = {"sleep": True, **sections.get("placement", {})}
    check_train(make_config(tmp_path, **{**sections, "placement": placement}))
