"""Policy, critic and reference as the trainer sees them: typed calls, fanned out over ranks, each with a deadline."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from ray.actor import ActorHandle

from openr1.algorithms.batch import PairBatch, TrainBatch, plan_micro_batches
from openr1.runtime.console import say
from openr1.runtime.ray_calls import gather
from openr1.types import Group, WeightVersion
from openr1.workers.balance import row_cost
from openr1.workers.deepspeed.universal import saved_ranks
from openr1.workers.update import LossSettings


class RankGroup:
    """All ranks of a model that learns; a batch given here is shared out over them."""

    ROLE: ClassVar[str]

    def __init__(
        self,
        actors: list[ActorHandle],
        micro_batch_tokens: int,
        timeout_seconds: float,
        hidden_size: int,
        *,
        packing: bool = False,
    ) -> None:
        """`micro_batch_tokens` is the budget of one pass on one rank, without padding where there is `packing`.

        `timeout_seconds` bounds every call; `hidden_size` is the model's, by which rows are balanced over the ranks.
        """
        self._actors = actors
        self._hidden_size = hidden_size
        self._packing = packing
        self._micro_batch_tokens = micro_batch_tokens
        self._timeout_seconds = timeout_seconds

    def save(self, folder: Path) -> None:
        """Write what resuming needs."""
        self._wait([actor.save.remote(folder) for actor in self._actors], "saving")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, with as many ranks or others."""
        saved, ranks = saved_ranks(folder / self.ROLE), len(self._actors)
        if saved not in (0, ranks):
            say(f"{folder}: saved by {saved} {self.ROLE} rank(s), and now there are {ranks}: it is converted first")
        self._wait([actor.load.remote(folder) for actor in self._actors], "loading a checkpoint")

    def _plan(self, lengths: list[int], rows: int = 1) -> list[list[list[int]]]:
        """`plan_micro_batches` of what has so many rows of each length."""
        tokens = [rows * length for length in lengths]
        costs = [rows * row_cost(length, self._hidden_size) for length in lengths]
        return plan_micro_batches(tokens, len(self._actors), self._micro_batch_tokens, self._packing, costs)

    def _shares(self, batch: TrainBatch) -> list[tuple[ActorHandle, list[TrainBatch]]]:
        """Each rank with its micro-batches."""
        shares = [[batch.select(rows) for rows in rank] for rank in self._plan(batch.lengths)]
        return list(zip(self._actors, shares, strict=True))

    def _per_token(self, batch: TrainBatch, calls: list[Any], purpose: str) -> torch.Tensor:
        """The ranks' answers for their shares, put together: [B, T]."""
        together = torch.zeros(batch.input_ids.shape)
        for rank_plan, parts in zip(self._plan(batch.lengths), self._wait(calls, purpose), strict=True):
            for rows, part in zip(rank_plan, parts, strict=True):
                if rows:
                    together[torch.tensor(rows), : part.shape[1]] = part
        return together

    def _wait(self, calls: list[Any], purpose: str) -> list[Any]:
        waiting = f"the trainer waits for {len(calls)} {self.ROLE} rank(s): {purpose}"
        return gather(calls, self._timeout_seconds, f"{waiting} (policy.timeout_seconds)")


class CriticGroup(RankGroup):
    """The critic."""

    ROLE = "critic"

    def values(self, batch: TrainBatch) -> torch.Tensor:
        """Values [B, T] under the current weights; see `model.ValueModel`."""
        calls = [actor.values.remote(share) for actor, share in self._shares(batch)]
        return self._per_token(batch, calls, "values")

    def update(self, batch: TrainBatch, clip: float | None) -> Callable[[], dict[str, float]]:
        """Begin an optimizer step on the whole batch, which has its `loss_weights`, and return at once.

        Returns:
            What waits for the step's end, and gives the loss, `grad_norm` and `learning_rate`.
        """
        calls = [actor.update.remote(share, clip) for actor, share in self._shares(batch)]
        return lambda: _add_up(self._wait(calls, "an update"))


class PolicyGroup(RankGroup):
    """The policy."""

    ROLE = "policy"

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probs [B, T] under the current weights."""
        calls = [actor.log_probs.remote(share) for actor, share in self._shares(batch)]
        return self._per_token(batch, calls, "log-probs")

    def update(self, batch: TrainBatch, loss: LossSettings) -> dict[str, float]:
        """One optimizer step on the whole batch, which has its `loss_weights`.

        Returns:
            The loss, sums over the batch's response tokens (see `policy.update`), `grad_norm` and `learning_rate`.
        """
        calls = [actor.update.remote(share, loss) for actor, share in self._shares(batch)]
        return _add_up(self._wait(calls, "an update"))

    def measure(self, batch: TrainBatch, loss: LossSettings) -> dict[str, float]:
        """What `update` tells, without an update; gradient norm and learning rate are 0."""
        calls = [actor.measure.remote(share, loss) for actor, share in self._shares(batch)]
        return _add_up(self._wait(calls, "metrics"))

    def supervised_update(self, batch: TrainBatch, z_loss_coef: float) -> dict[str, float]:
        """One optimizer step of the likelihood; `loss` in the answer is summed over response tokens."""
        tokens = batch.num_response_tokens
        calls = [actor.supervised_update.remote(share, z_loss_coef, tokens) for actor, share in self._shares(batch)]
        return _add_up(self._wait(calls, "a supervised update"))

    def preference_update(self, batch: TrainBatch, reference: torch.Tensor, beta: float) -> dict[str, float]:
        """One optimizer step on pairs of rows, chosen and rejected in turn; sums over pairs.

        `reference` [B] has the log-prob of each response under the reference. The two rows of a pair stay together.
        """
        longer = [max(pair) for pair in zip(batch.lengths[::2], batch.lengths[1::2], strict=True)]
        plan = self._plan(longer, rows=2)
        calls = []
        for actor, share in zip(self._actors, plan, strict=True):
            micro_batches = [PairBatch.select(batch, reference, pairs) for pairs in share]
            calls.append(actor.preference_update.remote(micro_batches, beta, len(longer)))
        return _add_up(self._wait(calls, "a preference update"))

    def push_weights(self, version: WeightVersion) -> None:
        """Push the current weights to all engines."""
        self._wait([actor.push_weights.remote(version) for actor in self._actors], "a push of weights")

    def export(self, folder: Path) -> None:
        """Write model and tokenizer in Hugging Face format."""
        self._wait([actor.export.remote(folder) for actor in self._actors], "exporting the model")


def _add_up(ranks: list[dict[str, float]]) -> dict[str, float]:
    """Sums added over ranks; what is the same on every rank is taken from rank 0."""
    total = {name: sum(rank[name] for rank in ranks) for name in ranks[0]}
    return total | {name: ranks[0][name] for name in ("grad_norm", "learning_rate")}


PASSES_AT_ONCE = 4
"""Passes' worth of groups that the reference gets at once; it sorts them by length, for less padding."""


class ReferenceLine:
    """The reference actor: groups go in as they finish, log-probs are collected later."""

    def __init__(self, actor: ActorHandle, micro_batch_tokens: int, timeout_seconds: float) -> None:
        """`micro_batch_tokens` is the budget of one pass; `timeout_seconds` bounds the wait for a whole step."""
        self._actor = actor
        self._micro_batch_tokens = micro_batch_tokens
        self._timeout_seconds = timeout_seconds
        self._unsent: list[Group] = []
        self._sent: list[tuple[list[Group], Any]] = []

    def submit(self, group: Group) -> None:
        """Have a group read, as soon as there are enough for a few passes; returns at once."""
        self._unsent.append(group)
        if sum(group.num_tokens for group in self._unsent) >= PASSES_AT_ONCE * self._micro_batch_tokens:
            self._send()

    def collect(self, groups: Sequence[Group]) -> torch.Tensor:
        """Log-probs of all response tokens of the groups, in one row and in their order."""
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
            self._sent.append((self._unsent, self._actor.log_probs.remote(self._unsent)))
            self._unsent = []
