"""Complete steps, for tests of what is kept of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.rollout.experience import Experience, StepResult, to_rewards
from openr1.types import ScoredGroup
from tests.fakes import make_group, make_prompt, make_score


def make_scored(number: int, text: str, grades: Sequence[float | None]) -> ScoredGroup:
    """A group of prompt `p<number>` whose first response has two tokens, the others one; None: could not be graded."""
    lengths = (2, *[1] * (len(grades) - 1))
    group = make_group(replace(make_prompt(number), text=text), lengths)
    return ScoredGroup(group, tuple(make_score(grade) for grade in grades))


def make_step(
    step: int,
    scored: ScoredGroup,
    advantages: Sequence[float],
    metrics: Mapping[str, float],
    *,
    rewards: Sequence[float] | None = None,
    dropped: Sequence[ScoredGroup] = (),
    kl_penalty: Tensor | None = None,
) -> StepResult:
    """A step with one group that trains; `rewards` are those of its responses after shaping."""
    graded, valid = to_rewards([scored])
    experience = Experience(
        step=step,
        scored=[scored],
        dropped=list(dropped),
        batch=TrainBatch.from_groups([scored.group]),
        prompts={},
        rewards=graded if rewards is None else torch.tensor([rewards]),
        valid=valid,
        kl_penalty=kl_penalty,
        advantages=torch.tensor([advantages]),
    )
    return StepResult(experience, dict(metrics))
