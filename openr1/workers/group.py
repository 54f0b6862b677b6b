"""Policy, critic and reference as the trainer sees them: typed calls, fanned out over ranks, each with a deadline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from ray.actor import ActorHandle

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import Objective, StepStats, combine_ranks
from openr1.interfaces import WeightSenderFactory
from openr1.runtime.console import say
from openr1.runtime.ray_calls import gather
from openr1.types import Group, WeightVersion
from openr1.workers.micro_batches import cut_into_micro_batches, plan_batch

Sums = TypeVar("Sums", bound=tuple[float, ...])


@dataclass(frozen=True)
class GroupSettings:
    """How a group shares out its work.

    Attributes:
        role: "policy" or "critic", for messages.
        micro_batch_tokens: Token budget of one forward and backward pass on one rank.
        timeout_seconds: Deadline of every call.
        hidden_size: Of the model; rows are balanced over ranks by their estimated cost.
        packing: Micro-batches have no padding, so the budget counts real tokens.
    """

    role: str
    micro_batch_tokens: int
    timeout_seconds: float
    hidden_size: int
    packing: bool = False


class WorkerGroup:
    """All ranks of one trained model. A batch given here is shared out over them."""

    def __init__(self, workers: list[ActorHandle], settings: GroupSettings) -> None:
        """Take workers that have loaded their model."""
        self._workers = workers
        self._settings = settings

    def predict(self, batch: TrainBatch) -> torch.Tensor:
        """Per-token outputs [B, T] under the current weights: log-probs of a policy, values of a critic."""
        plan = self._plan(batch)
        shares = cut_into_micro_batches(batch, plan)
        calls = [worker.predict.remote(share) for worker, share in zip(self._workers, shares, strict=True)]
        outputs = torch.zeros(batch.input_ids.shape)
        for rank_plan, parts in zip(plan, self._wait(calls, "a forward pass"), strict=True):
            for rows, part in zip(rank_plan, parts, strict=True):
                if rows:
                    outputs[torch.tensor(rows), : part.shape[1]] = part
        return outputs

    def begin_step(
        self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True
    ) -> Callable[[], StepStats[Sums]]:
        """Start an optimizer step on the whole batch and return at once, so that two groups can train side by side.

        Returns:
            A function that waits for the step and returns its statistics over all ranks.
        """
        plan = self._plan(batch, objective.rows_together)
        shares = cut_into_micro_batches(batch, plan, objective.rows_together)
        workers = zip(self._workers, shares, strict=True)
        calls = [worker.step.remote(share, objective, apply) for worker, share in workers]
        return lambda: combine_ranks(self._wait(calls, f"a step of {type(objective).__name__}"))

    def step(self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True) -> StepStats[Sums]:
        """One optimizer step on the whole batch; with `apply=False` only its statistics."""
        return self.begin_step(batch, objective, apply)()

    def save(self, folder: Path) -> None:
        """Write what resuming needs."""
        self._wait([worker.save.remote(folder) for worker in self._workers], "saving")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, with any number of ranks."""
        calls = [worker.load.remote(folder) for worker in self._workers]
        saved = self._wait(calls, "loading a checkpoint")[0]
        if saved is not None:
            role = self._settings.role
            say(f"{folder}: was saved by {saved} {role} rank(s); converted for {len(self._workers)}")

    def _plan(self, batch: TrainBatch, rows_together: int = 1) -> list[list[list[int]]]:
        settings, ranks = self._settings, len(self._workers)
        tokens, size = settings.micro_batch_tokens, settings.hidden_size
        return plan_batch(batch, ranks, tokens, size, settings.packing, rows_together)

    def _wait(self, calls: list[Any], purpose: str) -> list[Any]:
        waiting = f"the trainer waits for {len(calls)} {self._settings.role} rank(s): {purpose}"
        return gather(calls, self._settings.timeout_seconds, f"{waiting} (policy.timeout_seconds)")


class PolicyGroup(WorkerGroup):
    """The policy."""

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probs [B, T] of response tokens under the current weights, nats."""
        return self.predict(batch)

    def connect_engines(self, make_sender: WeightSenderFactory) -> None:
        """Set up the weight transfer to the engines; required before `push_weights`."""
        self._wait([worker.connect_engines.remote(make_sender) for worker in self._workers], "connecting to engines")

    def push_weights(self, version: WeightVersion) -> None:
        """Push the current weights to all engines."""
        self._wait([worker.push_weights.remote(version) for worker in self._workers], "a weight push")

    def export(self, folder: Path) -> None:
        """Write model and tokenizer in Hugging Face format."""
        self._wait([worker.export.remote(folder) for worker in self._workers], "exporting the model")


class CriticGroup(WorkerGroup):
    """The critic."""

    def values(self, batch: TrainBatch) -> torch.Tensor:
        """Values [B, T] of the states before response tokens under the current weights; see `ValueModel`."""
        return self.predict(batch)


REFERENCE_BUFFER_PASSES = 4
"""How many forward passes' worth of groups are buffered before they are sent; sorting them by length saves padding."""


class ReferenceClient:
    """The reference worker: groups go in as they finish, log-probs are collected later."""

    def __init__(self, worker: ActorHandle, micro_batch_tokens: int, timeout_seconds: float) -> None:
        """`micro_batch_tokens` is the budget of one pass; `timeout_seconds` bounds the wait for a whole step."""
        self._worker = worker
        self._micro_batch_tokens = micro_batch_tokens
        self._timeout_seconds = timeout_seconds
        self._unsent: list[Group] = []
        self._sent: list[tuple[list[Group], Any]] = []

    def submit(self, group: Group) -> None:
        """Queue a group, and send the queue once it fills a few forward passes; returns at once."""
        self._unsent.append(group)
        if sum(group.num_tokens for group in self._unsent) >= REFERENCE_BUFFER_PASSES * self._micro_batch_tokens:
            self._send()

    def collect(self, groups: Sequence[Group]) -> torch.Tensor:
        """Log-probs of all sampled tokens of the groups, concatenated in the order given."""
        self._send()
        sent, self._sent = self._sent, []
        waiting = f"the trainer waits for the reference: log-probs of {len(groups)} groups (policy.timeout_seconds)"
        answers = gather([call for _, call in sent], self._timeout_seconds, waiting)
        by_prompt = {
            group.prompt.id: group_log_probs
            for (sent_groups, _), answer in zip(sent, answers, strict=True)
            for group, group_log_probs in zip(
                sent_groups, answer.split([group.num_response_tokens for group in sent_groups]), strict=True
            )
        }
        return torch.cat([by_prompt[group.prompt.id] for group in groups])

    def _send(self) -> None:
        if self._unsent:
            self._sent.append((self._unsent, self._worker.log_probs.remote(self._unsent)))
            self._unsent = []
