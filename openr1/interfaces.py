"""The stages of a step as the trainer sees them. `actors/rl.py` builds the real ones, `tests/fakes.py` fakes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import Objective, StepStats
from openr1.types import Grade, Group, Prompt, Response, SamplingParams, WeightVersion

Sums = TypeVar("Sums", bound=tuple[float, ...])


class PromptSource(Protocol):
    """Where prompts come from (`data.prompts.PromptStream`)."""

    def take(self, count: int) -> list[Prompt]:
        """The next prompts, all different."""

    def state(self) -> dict[str, int]:
        """The position in the stream."""

    def restore(self, state: dict[str, int]) -> None:
        """Go to a position in the stream."""


class Rollout(Protocol):
    """Generation (`rollout.pool.RolloutPool`)."""

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> Iterator[Group]:
        """Yield each prompt's group as soon as it is finished, in any order."""


class Generate(Protocol):
    """The policy, as an environment sees it."""

    async def __call__(self, token_ids: Sequence[int]) -> Response:
        """Sample the continuation of a context (prompt included) up to an end token or the length limit.

        Raises:
            EngineError: `room` is 0.
        """

    def room(self, token_ids: Sequence[int]) -> int:
        """How many tokens may still follow a context; what follows the prompt has `rollout.generate_max_len` in all."""


class Env(Protocol):
    """Turns a prompt into one response, by one or more calls of the policy (`rollout.env`).

    A class or function `(tokenizer) -> Env` can be named in `rollout.env` by import path. One instance serves all
    responses of an engine; calls run concurrently on one event loop, so they must not block.
    """

    async def run(self, prompt: Prompt, generate: Generate) -> Response:
        """Produce a response. Tokens that `generate` did not sample have `loss_mask` False and log-prob 0."""


class RewardSource(Protocol):
    """Grading (`rewards.client.RewardClient`)."""

    def submit(self, group: Group) -> "Future[list[Grade]]":
        """Request the grades of a group; returns at once."""


class Reference(Protocol):
    """Reference log-probs (`workers.group.ReferenceClient`)."""

    def submit(self, group: Group) -> None:
        """Request the log-probs of a group; returns at once."""

    def collect(self, groups: Sequence[Group]) -> torch.Tensor:
        """Log-probs of all sampled tokens of the groups, all submitted before, concatenated in the order given."""


class Trainable(Protocol):
    """A trained model on its ranks (`workers.group.WorkerGroup`)."""

    def step(self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True) -> StepStats[Sums]:
        """One optimizer step on the whole batch; with `apply=False` only its statistics."""

    def save(self, folder: Path) -> None:
        """Copy what resuming needs; it is written to `folder` in the background, until `is_written`."""

    def is_written(self) -> bool:
        """Whether everything that was saved and exported is written; raises if it cannot be."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""


class Policy(Trainable, Protocol):
    """The policy (`workers.group.PolicyGroup`)."""

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probs [B, T] under the current weights."""

    def push_weights(self, version: WeightVersion) -> None:
        """Bring the current weights to every engine."""

    def export(self, folder: Path) -> None:
        """Copy the model; it is written in Hugging Face format in the background, until `is_written`."""


class Critic(Trainable, Protocol):
    """The critic (`workers.group.CriticGroup`)."""

    def values(self, batch: TrainBatch) -> torch.Tensor:
        """Values [B, T] under the current weights."""

    def begin_step(
        self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True
    ) -> Callable[[], StepStats[Sums]]:
        """Start an optimizer step and return at once, with a function that waits for its statistics."""


class GpuMemory(Protocol):
    """Who has the memory of GPUs that engines and training workers share (`actors.gpu_memory`).

    Between two steps engines have it: they generate and are evaluated, and the policy can still compute log-probs, push
    and save. From `for_training` to the push that follows `for_generation`, no engine can generate.
    """

    def for_training(self) -> None:
        """Make room for updates."""

    def for_generation(self) -> None:
        """Make room for engines; a push must follow, since they may have dropped their weights."""


class WeightProvider(Protocol):
    """The full weights of a model (`workers.learner.PolicyLearner`)."""

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and full tensors, gathered one at a time: a collective."""

    def weight_shapes(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, type and full shape of each, without gathering."""


class WeightSender(Protocol):
    """The sending end of a weight transfer, one on every policy rank (`weight_sync`)."""

    def push(self, version: WeightVersion) -> None:
        """Bring the current weights to every engine: a collective."""

    def reconnect(self, engines: Sequence[Any]) -> None:
        """Connect to these engines (Ray actors) and push under the version pushed last: a collective."""


class WeightSenderFactory(Protocol):
    """Builds a rank's sender; it is pickled and sent to every rank, so that workers need not know the transfer."""

    def __call__(self, weights: WeightProvider, rank: int) -> WeightSender:
        """Connect to the engines: a collective."""
