"""Wrappers of the trained models for runs that must not change or push weights (config section `debug`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import Objective, StepStats
from openr1.interfaces import Critic, Policy
from openr1.types import WeightVersion

Sums = TypeVar("Sums", bound=tuple[float, ...])


class DetachedPolicy:
    """A policy without engines: it trains, and pushing its weights does nothing."""

    def __init__(self, policy: Policy) -> None:
        """Wrap `policy`."""
        self._policy = policy

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """See `Policy`."""
        return self._policy.log_probs(batch)

    def step(self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True) -> StepStats[Sums]:
        """See `Policy`."""
        return self._policy.step(batch, objective, apply)

    def push_weights(self, version: WeightVersion) -> None:
        """There is no engine to push to."""

    def save(self, folder: Path) -> None:
        """See `Policy`."""
        self._policy.save(folder)

    def is_written(self) -> bool:
        """See `Policy`."""
        return self._policy.is_written()

    def load(self, folder: Path) -> None:
        """See `Policy`."""
        self._policy.load(folder)

    def export(self, folder: Path) -> None:
        """See `Policy`."""
        self._policy.export(folder)


class FrozenPolicy(DetachedPolicy):
    """A policy whose steps only evaluate the loss; its weights, which never change, are still pushed."""

    def step(self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True) -> StepStats[Sums]:
        """Statistics, no update."""
        return self._policy.step(batch, objective, apply=False)

    def push_weights(self, version: WeightVersion) -> None:
        """Engines count versions, so they get the same weights under the next one."""
        self._policy.push_weights(version)


class FrozenCritic:
    """A critic whose steps only evaluate the loss."""

    def __init__(self, critic: Critic) -> None:
        """Wrap `critic`."""
        self._critic = critic

    def values(self, batch: TrainBatch) -> torch.Tensor:
        """See `Critic`."""
        return self._critic.values(batch)

    def begin_step(
        self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True
    ) -> Callable[[], StepStats[Sums]]:
        """Statistics, no update."""
        return self._critic.begin_step(batch, objective, apply=False)

    def step(self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True) -> StepStats[Sums]:
        """Statistics, no update."""
        return self._critic.step(batch, objective, apply=False)

    def save(self, folder: Path) -> None:
        """See `Critic`."""
        self._critic.save(folder)

    def is_written(self) -> bool:
        """See `Critic`."""
        return self._critic.is_written()

    def load(self, folder: Path) -> None:
        """See `Critic`."""
        self._critic.load(folder)
