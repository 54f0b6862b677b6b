"""The batch of one policy update, and how it is cut over ranks and micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openr1.algorithms.aggregation import loss_weights
from openr1.types import Group
from openr1.workers.balance import balanced_shares


@dataclass(frozen=True)
class TrainBatch:
    """Everything an update reads, one row a response. B rows, T the longest prompt + response.

    Index t describes token t. `response_mask` is built from lengths and is False at column 0; nothing outside it is
    read.
    """

    input_ids: Tensor  # [B, T] int64, padding on the right
    attention_mask: Tensor  # [B, T] bool, True on real tokens
    response_mask: Tensor  # [B, T] bool, True on response tokens
    rollout_log_probs: Tensor  # [B, T] float32, nats, of the engine at sampling
    advantages: Tensor | None = None  # [B, T] float32
    ref_log_probs: Tensor | None = None  # [B, T] float32, nats; None without a reference
    old_log_probs: Tensor | None = None  # [B, T] float32, nats; None where one update is made of the batch
    loss_weights: Tensor | None = None  # [B, T] float32; see algorithms.aggregation
    values: Tensor | None = None  # [B, T] float32, in rewards, of the critic before this step; None without one
    returns: Tensor | None = None  # [B, T] float32, what values are to become; None without a critic

    @classmethod
    def from_tokens(cls, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> "TrainBatch":
        """Lay out rows of (prompt tokens, response tokens); `rollout_log_probs` are 0, padding is token 0."""
        length = max(len(prompt) + len(response) for prompt, response in rows)
        input_ids = torch.zeros(len(rows), length, dtype=torch.int64)
        attention_mask = torch.zeros(len(rows), length, dtype=torch.bool)
        response_mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for row, (prompt, response) in enumerate(rows):
            start, end = len(prompt), len(prompt) + len(response)
            input_ids[row, :end] = torch.tensor([*prompt, *response])
            attention_mask[row, :end] = True
            response_mask[row, start:end] = True
        return cls(input_ids, attention_mask, response_mask, torch.zeros(len(rows), length))

    @classmethod
    def from_groups(cls, groups: Sequence[Group]) -> "TrainBatch":
        """Lay out prompts and responses; rows in the order of the groups, then of their responses."""
        responses = [(group.prompt, response) for group in groups for response in group.responses]
        batch = cls.from_tokens([(prompt.token_ids, response.token_ids) for prompt, response in responses])
        log_probs = [log_prob for _, response in responses for log_prob in response.log_probs]
        batch.rollout_log_probs[batch.response_mask] = torch.tensor(log_probs)
        return batch

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a model reads: tokens, attention mask, response mask."""
        return self.input_ids, self.attention_mask, self.response_mask

    @property
    def lengths(self) -> list[int]:
        """Real tokens of each row, prompt included."""
        return [int(length) for length in self.attention_mask.sum(-1)]

    @property
    def num_response_tokens(self) -> int:
        """Tokens that train."""
        return int(self.response_mask.sum())

    def with_advantages(self, advantages: Tensor) -> "TrainBatch":
        """Spread one advantage a response [B] over its tokens [B, T]."""
        return replace(self, advantages=advantages[:, None] * self.response_mask)

    @property
    def mean_advantages(self) -> Tensor:
        """Means [B] over the tokens that train; 0 for rows without one."""
        assert self.advantages is not None
        mask = self.response_mask
        return torch.where(mask, self.advantages, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)

    def with_loss_weights(self, aggregation: str, generate_max_len: int) -> "TrainBatch":
        """Weigh the tokens' losses by counts over these rows: the whole of what one update is made of."""
        return replace(self, loss_weights=loss_weights(self.response_mask, aggregation, generate_max_len))

    def weighed_parts(self, size: int, aggregation: str, generate_max_len: int) -> list["TrainBatch"]:
        """Cut into parts of `size` rows, in order, each with its own loss weights: one for each optimizer step."""
        parts = [self.select(range(start, start + size)) for start in range(0, len(self), size)]
        return [part.with_loss_weights(aggregation, generate_max_len) for part in parts]

    def with_signal(self) -> "TrainBatch":
        """Only rows that train and whose advantage is not 0: the others have no gradient of the policy loss.

        All rows where there is no such one: metrics are means over something. Weights stay those of the whole.
        """
        assert self.advantages is not None
        rows = (self.advantages * self.response_mask).any(-1).nonzero().flatten().tolist()
        return self.select(rows) if rows else self

    def without(self, rows: Tensor) -> "TrainBatch":
        """Keep the rows marked True [B] out of training: their responses are masked, and do not count as tokens."""
        return replace(self, response_mask=self.response_mask & ~rows[:, None])

    def select(self, rows: Sequence[int]) -> "TrainBatch":
        """The given rows, without the columns that are padding in all of them.

        An empty selection gives row 0 with nothing to train on: every rank must take part in every micro-batch.
        """
        index = torch.tensor(list(rows) or [0])
        width = int(self.attention_mask[index].sum(-1).max())
        tensors = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        chosen = replace(self, **{name: tensor[index, :width] for name, tensor in tensors.items()})
        return chosen if rows else replace(chosen, response_mask=torch.zeros_like(chosen.response_mask))


@dataclass(frozen=True)
class PairBatch:
    """Rows chosen, rejected, chosen, ... [2N], and the log-probs of their responses under the reference [2N], nats.

    `weight` is 0 where a rank has no pairs of its own but must take part.
    """

    rows: TrainBatch
    reference: Tensor
    weight: float

    @classmethod
    def select(cls, batch: TrainBatch, reference: Tensor, pairs: Sequence[int]) -> "PairBatch":
        """The given pairs of a batch; pair 0 with weight 0 where there are none."""
        rows = [2 * pair + side for pair in pairs or [0] for side in (0, 1)]
        return cls(batch.select(rows), reference[rows], float(bool(pairs)))


def plan_micro_batches(
    lengths: Sequence[int],
    num_ranks: int,
    micro_batch_tokens: int,
    packing: bool = False,
    costs: Sequence[int] | None = None,
) -> list[list[list[int]]]:
    """Share rows over ranks and cut each share into micro-batches within a token budget.

    Shares cost about the same (`balanced_shares`). A micro-batch of n rows, cut longest first, counts n times its
    longest row, since it is padded to that. Every rank gets the same number of micro-batches (empty ones where it
    has fewer): the ranks meet in a collective for each.

    Args:
        lengths: Tokens of each row.
        num_ranks: Policy ranks.
        micro_batch_tokens: Budget; a single row above it gets a micro-batch of its own.
        packing: A micro-batch counts its real tokens, since it is not padded.
        costs: What a pass over each row costs; None: its tokens.

    Returns:
        [rank][micro_batch] -> row indices. Each row stands exactly once.
    """
    shares = balanced_shares(lengths if costs is None else costs, num_ranks)
    by_length = [sorted(share, key=lambda row: (-lengths[row], row)) for share in shares]
    plan = [_cut_by_budget(share, lengths, micro_batch_tokens, packing) for share in by_length]
    most = max(len(micro_batches) for micro_batches in plan)
    return [micro_batches + [[] for _ in range(most - len(micro_batches))] for micro_batches in plan]


def _cut_by_budget(rows: list[int], lengths: Sequence[int], budget: int, packing: bool) -> list[list[int]]:
    """Cut rows, given longest first, so that each part's tokens, padding included, stay within the budget."""
    micro_batches: list[list[int]] = []
    left = 0
    for row in rows:
        cost = lengths[row] if packing or not micro_batches else lengths[micro_batches[-1][0]]
        if micro_batches and cost <= left:
            micro_batches[-1].append(row)
            left -= cost
        else:
            micro_batches.append([row])
            left = budget - lengths[row]
    return micro_batches
