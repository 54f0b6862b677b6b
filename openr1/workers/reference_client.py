"""Reference log-probs as seen by the trainer: from copies of a reference model, or from a LoRA policy's base model."""

from collections.abc import Sequence
from typing import Any

import torch
from ray.actor import ActorHandle

from openr1.algorithms.batch import TrainBatch
from openr1.runtime.ray_calls import gather
from openr1.types import Group
from openr1.workers.group import PolicyGroup

REFERENCE_BUFFER_PASSES = 4
"""How many forward passes' worth of groups are buffered before they are sent.

The worker sorts what it receives by length, so larger buffers need less padding.
"""


class ReferenceClient:
    """Client of the reference workers: groups are submitted as they finish, their log-probs are collected later.

    The reference thereby computes while the rest of the batch is still being generated.
    """

    def __init__(self, workers: Sequence[ActorHandle], micro_batch_tokens: int, timeout_seconds: float) -> None:
        """Wrap workers that have loaded their model.

        Args:
            workers: `ReferenceWorker`s, all with the same model.
            micro_batch_tokens: Token budget of one forward pass.
            timeout_seconds: Deadline of `collect`, which waits for a whole training step.
        """
        self._workers = list(workers)
        self._micro_batch_tokens = micro_batch_tokens
        self._timeout_seconds = timeout_seconds
        self._tokens = [0] * len(self._workers)
        """Tokens sent to each worker since the last `collect`."""
        self._unsent: list[Group] = []
        self._sent: list[tuple[list[Group], int, Any]] = []

    def submit(self, group: Group) -> None:
        """Buffer a group, and send the buffer once it fills `REFERENCE_BUFFER_PASSES` passes; returns at once."""
        self._unsent.append(group)
        if sum(group.num_tokens for group in self._unsent) >= REFERENCE_BUFFER_PASSES * self._micro_batch_tokens:
            self._send(self._unsent)
            self._unsent = []

    def collect(self, groups: Sequence[Group]) -> torch.Tensor:
        """Log-probs of all sampled tokens of the groups, concatenated in the order given."""
        # What is left is shared out over all workers.
        for index in range(len(self._workers)):
            self._send(self._unsent[index :: len(self._workers)])
        # Reset before waiting, so that a failure does not leave calls of this step to the next one.
        sent, self._sent, self._unsent = self._sent, [], []
        self._tokens = [0] * len(self._workers)
        waiting = f"the trainer waits for the reference: log-probs of {len(groups)} groups (policy.timeout_seconds)"
        names = [f"reference {index}" for _, index, _ in sent]
        answers = gather([call for _, _, call in sent], self._timeout_seconds, waiting, names)
        # Groups were sent in the order in which they finished, which differs from the order of the batch.
        by_prompt = {
            group.prompt.id: group_log_probs
            for (sent_groups, _, _), answer in zip(sent, answers, strict=True)
            for group, group_log_probs in zip(
                sent_groups, answer.split([group.num_response_tokens for group in sent_groups]), strict=True
            )
        }
        return torch.cat([by_prompt[group.prompt.id] for group in groups])

    def _send(self, groups: list[Group]) -> None:
        """Send groups to the worker that was sent the fewest tokens."""
        if not groups:
            return
        index = self._tokens.index(min(self._tokens))
        self._tokens[index] += sum(group.num_tokens for group in groups)
        self._sent.append((groups, index, self._workers[index].log_probs.remote(groups)))


class BaseModelReference:
    """The reference of a LoRA policy: the policy itself without its adapters, so no second model is loaded.

    Its ranks compute all groups together in `collect`, since a forward pass is a collective under ZeRO 3.
    """

    def __init__(self, policy: PolicyGroup) -> None:
        """`policy` trains adapters."""
        self._policy = policy

    def submit(self, group: Group) -> None:
        """Nothing to do yet: `collect` is given all groups."""

    def collect(self, groups: Sequence[Group]) -> torch.Tensor:
        """Log-probs of all sampled tokens of the groups, concatenated in the order given."""
        batch = TrainBatch.from_groups(groups)
        return self._policy.predict(batch, adapters=False)[batch.response_mask]
