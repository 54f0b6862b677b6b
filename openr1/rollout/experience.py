"""The data of one training step, from sampling to the record."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openr1.algorithms.batch import TrainBatch
from openr1.types import Group, RunningReward, ScoredGroup


@dataclass(frozen=True)
class Experience:
    """What one step trains on: P prompts, G responses each, B = P x G rows in the batch.

    Stages return a copy with more filled in: sampling everything above `kl_penalty`; reward shaping `rewards`,
    `kl_penalty` (which together make the `shaped_rewards`), `advantage_penalty` and the batch's response mask;
    advantage estimation `advantages`, `running_reward` and the batch's advantages (and values and returns with a
    critic).

    Attributes:
        step: Number of the step, from 1.
        scored: Groups to train on, in the order of their prompts.
        dropped: Groups that dynamic sampling discarded.
        batch: The tokens of `scored`, with log-probs of engine and reference.
        prompts: Position in the data after this step.
        rewards: [P, G] float32; the server's, then clipped and less the length penalty. 0 for ungraded responses.
        valid: [P, G] bool, True for graded responses.
        seconds: Wall time of each phase; stages add theirs.
        kl_penalty: [B, T] float32, subtracted from each token's reward; None if KL is not in the reward.
        advantage_penalty: [B, T] float32, subtracted from each token's advantage; None if KL is not in advantages.
        advantages: [P, G] float32; with a critic the mean over a response's tokens.
        running_reward: Running mean and deviation, this step included.
    """

    step: int
    scored: list[ScoredGroup]
    dropped: list[ScoredGroup]
    batch: TrainBatch
    prompts: dict[str, int]
    rewards: Tensor
    valid: Tensor
    seconds: dict[str, float] = field(default_factory=dict)
    kl_penalty: Tensor | None = None
    advantage_penalty: Tensor | None = None
    advantages: Tensor | None = None
    running_reward: RunningReward | None = None

    @property
    def groups(self) -> list[Group]:
        """The groups that train."""
        return [scored.group for scored in self.scored]

    @property
    def sampled(self) -> list[ScoredGroup]:
        """All groups, also those that were dropped."""
        return self.scored + self.dropped

    @property
    def shaped_rewards(self) -> Tensor:
        """[P, G] rewards less the KL penalty of all their tokens: what estimators of whole responses read."""
        return self.rewards if self.kl_penalty is None else self.rewards - self.kl_penalty.sum(-1).view_as(self.rewards)


@dataclass(frozen=True)
class StepResult:
    """A complete step, for the record."""

    experience: Experience
    metrics: dict[str, float]

    @property
    def step(self) -> int:
        """Number of the step, from 1."""
        return self.experience.step


def to_rewards(scored: Sequence[ScoredGroup]) -> tuple[Tensor, Tensor]:
    """Rewards [P, G] float32, 0 where a response could not be graded, and [P, G] bool where it was."""
    valid = torch.tensor([[grade.valid for grade in one.grades] for one in scored])
    rewards = torch.tensor([[grade.reward or 0.0 for grade in one.grades] for one in scored], dtype=torch.float32)
    return rewards, valid


def to_components(scored: Sequence[ScoredGroup]) -> tuple[list[str], Tensor, Tensor]:
    """Names of the K components of the rewards, their values [K, P, G] float32, and [K, P, G] bool where there is one.

    Responses have the components of their task; the value is 0 where a response has none of that name.
    """
    grades = [[grade.components for grade in one.grades] for one in scored]
    names = sorted({name for group in grades for components in group for name in components})
    values = [[[one.get(name, 0.0) for one in group] for group in grades] for name in names]
    present = [[[name in one for one in group] for group in grades] for name in names]
    shape = (len(names), len(grades), len(grades[0]))
    return (
        names,
        torch.tensor(values, dtype=torch.float32).view(shape),
        torch.tensor(present, dtype=torch.bool).view(shape),
    )


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the block's wall time to the phase's."""
    start = time.monotonic()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - start
