"""Policy and critic as seen by the trainer: typed calls to Ray workers on all ranks, with deadlines."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from ray.actor import ActorHandle

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.base import Objective, StepStats, combine_ranks
from openr1.interfaces import WeightSenderFactory
from openr1.runtime.console import say
from openr1.runtime.ray_calls import gather, numbered
from openr1.types import WeightVersion
from openr1.workers.background import all_written
from openr1.workers.micro_batches import cut_into_micro_batches, plan_batch

Sums = TypeVar("Sums", bound=tuple[float, ...])


@dataclass(frozen=True)
class GroupSettings:
    """How a group distributes its work.

    Attributes:
        role: "policy" or "critic", for messages.
        micro_batch_tokens: Token budget of one forward and backward pass on one rank.
        timeout_seconds: Deadline of every call.
        hidden_size: Hidden size of the model, from which the cost of a row is estimated to balance the ranks.
        packing: Whether micro-batches are packed. They then have no padding, and the budget counts real tokens.
    """

    role: str
    micro_batch_tokens: int
    timeout_seconds: float
    hidden_size: int
    packing: bool = False


class WorkerGroup:
    """All ranks of one trained model. Batches are distributed over them."""

    def __init__(self, workers: list[ActorHandle], settings: GroupSettings) -> None:
        """Wrap workers that have loaded their model, in the order of their ranks."""
        self._workers = workers
        self._settings = settings
        # With policy lag, a thread that samples ahead calls, too. All ranks must get the calls in the same order, since
        # each is a collective: two ranks in different ones would wait for each other.
        self._sending = threading.Lock()

    def predict(self, batch: TrainBatch, adapters: bool = True) -> torch.Tensor:
        """Per-token outputs [B, T] under the current weights: log-probs of a policy, values of a critic.

        `adapters=False` leaves out the LoRA adapters of a policy that has them.
        """
        plan = self._plan(batch)
        shares = cut_into_micro_batches(batch, plan)
        with self._sending:
            calls = [
                worker.predict.remote(share, adapters) for worker, share in zip(self._workers, shares, strict=True)
            ]
        outputs = torch.zeros(batch.input_ids.shape)
        # Micro-batches are sorted by length and padded to their own longest row, hence the scatter to [B, T].
        for rank_plan, parts in zip(plan, self._wait(calls, "a forward pass"), strict=True):
            for rows, part in zip(rank_plan, parts, strict=True):
                # Empty `rows` belong to a placeholder, which only keeps the collectives of all ranks in step.
                if rows:
                    outputs[torch.tensor(rows), : part.shape[1]] = part
        return outputs

    def begin_step(
        self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True
    ) -> Callable[[], StepStats[Sums]]:
        """Start an optimizer step on the whole batch without waiting, so that two groups can train concurrently.

        Returns:
            A function that waits for the step and returns its statistics, combined over all ranks.
        """
        # Planned for each call, since the balance over ranks depends on the lengths of this batch.
        plan = self._plan(batch, objective.rows_together)
        shares = cut_into_micro_batches(batch, plan, objective.rows_together)
        workers = zip(self._workers, shares, strict=True)
        with self._sending:
            calls = [worker.step.remote(share, objective, apply) for worker, share in workers]
        # The calls already run on the workers; only waiting is deferred to the returned function.
        return lambda: combine_ranks(self._wait(calls, f"a step of {type(objective).__name__}"))

    def step(self, batch: TrainBatch, objective: Objective[Any, Sums], apply: bool = True) -> StepStats[Sums]:
        """Run one optimizer step on the whole batch; with `apply=False`, only compute its statistics."""
        return self.begin_step(batch, objective, apply)()

    def save(self, folder: Path) -> None:
        """Copy weights, optimizer state and schedule to host memory; files in `folder` follow until `is_written`."""
        self._wait(self._send("save", folder), "saving")

    def is_written(self) -> bool:
        """Whether all ranks have written the files of all `save` and `export` calls.

        Raises:
            NotSaved: A file could not be written.
        """
        return all_written(self._wait(self._send("written"), "asking for written files"))

    def load(self, folder: Path) -> None:
        """Load what `save` wrote, with any number of ranks."""
        saved = self._wait(self._send("load", folder), "loading a checkpoint")[0]
        if saved is not None:
            role = self._settings.role
            say(f"{folder}: saved by {saved} {role} rank(s), converted for {len(self._workers)}")

    def offload(self) -> None:
        """Move optimizer state, master weights and gradients to host memory; see `Backend.offload`."""
        self._wait(self._send("offload"), "moving training state to host memory")

    def reload(self) -> None:
        """Take back what `offload` moved."""
        self._wait(self._send("reload"), "moving training state back from host memory")

    def _send(self, method: str, *arguments: object) -> list[Any]:
        """Call a method on every rank with the same arguments; returns at once."""
        with self._sending:
            return [getattr(worker, method).remote(*arguments) for worker in self._workers]

    def _plan(self, batch: TrainBatch, rows_together: int = 1) -> list[list[list[int]]]:
        settings, ranks = self._settings, len(self._workers)
        tokens, size = settings.micro_batch_tokens, settings.hidden_size
        return plan_batch(batch, ranks, tokens, size, settings.packing, rows_together)

    def _wait(self, calls: list[Any], purpose: str) -> list[Any]:
        # Every call has a deadline: a rank that dies inside a collective leaves the others waiting forever.
        waiting = f"the trainer waits for {len(calls)} {self._settings.role} rank(s): {purpose}"
        names = numbered(f"{self._settings.role} rank", len(calls))
        return gather(calls, self._settings.timeout_seconds, f"{waiting} (policy.timeout_seconds)", names)


class PolicyGroup(WorkerGroup):
    """The policy on all its ranks."""

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probs [B, T] (nats) of response tokens under the current weights."""
        return self.predict(batch)

    def connect_engines(self, make_sender: WeightSenderFactory) -> None:
        """Set up the weight transfer to the engines; required before `push_weights`."""
        self._wait(self._send("connect_engines", make_sender), "connecting to engines")

    def push_weights(self, version: WeightVersion) -> None:
        """Push the current weights to all engines."""
        self._wait(self._send("push_weights", version), "a weight push")

    def reconnect_engines(self, engines: list[ActorHandle]) -> None:
        """Connect to engines, some of which were started again or are new, and push under the version pushed last.

        They need not have started: their start is awaited. Required after the loss of an engine outside of a push;
        `engines` are all that later pushes shall reach.

        Raises:
            WeightSyncError: An engine did not become ready, or did not get the weights.
        """
        self._wait(self._send("reconnect_engines", engines), "connecting to engines again")

    def export(self, folder: Path) -> None:
        """Copy the model to host memory; files in Hugging Face format follow until `is_written`."""
        self._wait(self._send("export", folder), "exporting the model")


class CriticGroup(WorkerGroup):
    """The critic on all its ranks."""

    def values(self, batch: TrainBatch) -> torch.Tensor:
        """Values [B, T] of the states before response tokens under the current weights; see `ValueModel`."""
        return self.predict(batch)
