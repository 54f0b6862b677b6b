"""The batch of one or more optimizer steps: every tensor that training reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from openr1.algorithms.aggregation import loss_weights
from openr1.types import Group


@dataclass(frozen=True)
class TrainBatch:
    """Everything an optimizer step reads, one row per response. B rows, T tokens of the longest prompt + response.

    Index t describes token t; there is no T - 1 axis. `response_mask` is built from lengths and the responses'
    `loss_mask`, never by comparing with the padding token; it is False at column 0. No per-token tensor is read outside
    it.
    """

    input_ids: Tensor  # [B, T] int64, padding on the right
    attention_mask: Tensor  # [B, T] bool, True on real tokens
    response_mask: Tensor  # [B, T] bool, True on the response tokens that train: sampled, not inserted
    rollout_log_probs: Tensor  # [B, T] float32, nats, of the engine at sampling
    advantages: Tensor | None = None  # [B, T] float32
    ref_log_probs: Tensor | None = None  # [B, T] float32, nats; None without a reference
    old_log_probs: Tensor | None = None  # [B, T] float32, nats; None where no update came before
    loss_weights: Tensor | None = None  # [B, T] float32; see algorithms.aggregation
    values: Tensor | None = None  # [B, T] float32, in rewards, of the critic before this step; None without one
    returns: Tensor | None = None  # [B, T] float32, regression targets of the values; None without a critic
    ref_sequence_log_probs: Tensor | None = None  # [B] float64, nats, whole responses under the reference (DPO)

    @classmethod
    def from_tokens(cls, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> "TrainBatch":
        """Lay out rows of (prompt tokens, response tokens); `rollout_log_probs` are 0, padding is token 0."""
        starts = torch.tensor([[len(prompt)] for prompt, _ in rows])
        ends = starts + torch.tensor([[len(response)] for _, response in rows])
        positions = torch.arange(int(ends.max()))
        attention_mask = positions < ends
        # NumPy copies an array of tokens as a block; torch would make a Python number of each.
        input_ids = np.zeros(attention_mask.shape, dtype=np.int64)
        for row, (prompt, response) in enumerate(rows):
            input_ids[row, : len(prompt)] = prompt
            input_ids[row, len(prompt) : len(prompt) + len(response)] = response
        response_mask = attention_mask & (positions >= starts)
        return cls(torch.from_numpy(input_ids), attention_mask, response_mask, torch.zeros(attention_mask.shape))

    @classmethod
    def from_groups(cls, groups: Sequence[Group]) -> "TrainBatch":
        """Lay out prompts and responses; rows in the order of the groups, then of their responses."""
        responses = [(group.prompt, response) for group in groups for response in group.responses]
        batch = cls.from_tokens([(prompt.token_ids, response.token_ids) for prompt, response in responses])
        log_probs = np.concatenate([np.asarray(response.log_probs, dtype=np.float32) for _, response in responses])
        batch.rollout_log_probs[batch.response_mask] = torch.from_numpy(log_probs)
        sampled = np.concatenate([np.asarray(response.loss_mask, dtype=np.bool_) for _, response in responses])
        # A new tensor: a masked copy in place would change the mask that it is indexed by.
        response_mask = torch.zeros_like(batch.response_mask)
        response_mask[batch.response_mask] = torch.from_numpy(sampled)
        return replace(batch, response_mask=response_mask, rollout_log_probs=batch.rollout_log_probs * response_mask)

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

    def less_penalty(self, penalty: Tensor) -> "TrainBatch":
        """Subtract a penalty [B, T] from the advantage of each token that trains."""
        assert self.advantages is not None
        return replace(self, advantages=self.advantages - penalty * self.response_mask)

    @property
    def mean_advantages(self) -> Tensor:
        """Means [B] over the tokens that train; 0 for rows without one."""
        assert self.advantages is not None
        mask = self.response_mask
        return torch.where(mask, self.advantages, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)

    def with_loss_weights(self, aggregation: str, generate_max_len: int) -> "TrainBatch":
        """Add the weight of every token's loss, from counts over these rows: those of one optimizer step."""
        return replace(self, loss_weights=loss_weights(self.response_mask, aggregation, generate_max_len))

    def mini_batches(self, size: int, aggregation: str, generate_max_len: int) -> list["TrainBatch"]:
        """Cut into mini-batches of `size` rows, in order, one per optimizer step, each with its own loss weights."""
        parts = [self.select(range(start, start + size)) for start in range(0, len(self), size)]
        return [part.with_loss_weights(aggregation, generate_max_len) for part in parts]

    def drop_zero_advantage(self) -> "TrainBatch":
        """Keep only rows that train and have a non-zero advantage: the others have no policy gradient.

        Returns all rows if none qualifies, so that metric means stay defined. Loss weights stay those of the whole.
        """
        assert self.advantages is not None
        rows = (self.advantages * self.response_mask).any(-1).nonzero().flatten().tolist()
        return self.select(rows) if rows else self

    def mask_responses(self, rows: Tensor) -> "TrainBatch":
        """Take the rows marked True [B] out of training: their responses are masked and count nowhere."""
        return replace(self, response_mask=self.response_mask & ~rows[:, None])

    def select(self, rows: Sequence[int]) -> "TrainBatch":
        """The given rows (at least one), without the columns that are padding in all of them."""
        index = torch.tensor(list(rows))
        width = int(self.attention_mask[index].sum(-1).max())
        tensors = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        cut = {name: tensor[index] if tensor.dim() == 1 else tensor[index, :width] for name, tensor in tensors.items()}
        return replace(self, **cut)

    def placeholder(self, num_rows: int) -> "TrainBatch":
        """The first rows with nothing to train on.

        A rank that has no rows left for a micro-batch computes this one: every rank must take part in every collective.
        """
        first = self.select(range(num_rows))
        return replace(first, response_mask=torch.zeros_like(first.response_mask))

    def to(self, device: torch.device) -> "TrainBatch":
        """A copy on a device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None})
