"""Reference log-probs as seen by the trainer: from copies of a reference model, or from a LoRA policy's base model."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from openr1.algorithms.batch import TrainBatch
from openr1.errors import ActorLost
from openr1.runtime.console import say
from openr1.runtime.heartbeats import SILENT_SECONDS, Heartbeats
from openr1.runtime.ray_calls import gather
from openr1.runtime.restarts import wait_until_started
from openr1.types import Group
from openr1.workers.group import PolicyGroup

REFERENCE_BUFFER_PASSES = 4
"""How many forward passes' worth of groups are buffered before they are sent.

The worker sorts or packs what it receives, so larger buffers leave less unused.
"""


@dataclass
class _Part:
    """Groups of one step, sent to the worker `index`, and the call that will answer them."""

    groups: list[Group]
    index: int
    call: Any


class ReferenceClient:
    """Client of the reference workers: groups are submitted as they finish, their log-probs are collected later.

    The reference thereby computes while the rest of the batch is still being generated. What a worker owed when it was
    lost is computed again, once Ray has started it again: the weights are those of the model's folder.
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
        self._sent: list[_Part] = []

    def submit(self, group: Group) -> None:
        """Buffer a group, and send the buffer once it fills `REFERENCE_BUFFER_PASSES` passes; returns at once."""
        self._unsent.append(group)
        if sum(group.num_tokens for group in self._unsent) >= REFERENCE_BUFFER_PASSES * self._micro_batch_tokens:
            self._send(self._unsent)
            self._unsent = []

    def collect(self, groups: Sequence[Group]) -> torch.Tensor:
        """Log-probs of all sampled tokens of the groups, concatenated in the order given.

        Raises:
            StageTimeout: They are not there within `timeout_seconds`.
            ActorLost: A worker was lost and is not started again.
        """
        # What is left is shared out over all workers.
        for index in range(len(self._workers)):
            self._send(self._unsent[index :: len(self._workers)])
        # Reset before waiting, so that a failure does not leave calls of this step to the next one.
        sent, self._sent, self._unsent = self._sent, [], []
        self._tokens = [0] * len(self._workers)
        waiting = f"the trainer waits for the reference: log-probs of {len(groups)} groups (policy.timeout_seconds)"
        answers = self._answers(sent, waiting)
        # Groups were sent in the order in which they finished, which differs from the order of the batch.
        by_prompt = {
            group.prompt.id: group_log_probs
            for part, answer in zip(sent, answers, strict=True)
            for group, group_log_probs in zip(
                part.groups, answer.split([group.num_response_tokens for group in part.groups]), strict=True
            )
        }
        return torch.cat([by_prompt[group.prompt.id] for group in groups])

    def _answers(self, sent: list[_Part], waiting: str) -> list[torch.Tensor]:
        """Wait for all parts; those of lost workers are sent again, until the deadline of all."""
        deadline = time.monotonic() + self._timeout_seconds
        names = [f"reference {part.index}" for part in sent]
        while True:
            # Anew after a restart: what the worker before it was asked stays unanswered.
            watch = partial(self._give_up, Heartbeats(self._workers), {part.index for part in sent})
            left = max(0.0, deadline - time.monotonic())
            try:
                return gather([part.call for part in sent], left, waiting, names, watch)
            except ActorLost as error:
                lost = [part for part in sent if _is_lost(part.call)]
                if not lost:
                    raise
                say(f"{error}; waiting until Ray has started it again")
                self._send_again(lost, deadline)

    def _send_again(self, lost: list[_Part], deadline: float) -> None:
        """Wait for the workers that were lost, and send them again what they owe."""
        for index in {part.index for part in lost}:
            left = max(0.0, deadline - time.monotonic())
            wait_until_started(self._workers[index], left, f"the trainer waits for reference {index} to start again")
        for part in lost:
            part.call = self._workers[part.index].log_probs.remote(part.groups)

    def _give_up(self, heartbeats: Heartbeats, busy: set[int]) -> None:
        """End the processes of workers that answer nothing; their calls then fail as if they had died."""
        for index in heartbeats.watch(busy):
            say(f"reference {index} has answered nothing for {SILENT_SECONDS:g} s (stopped?); its process is ended")
            ray.kill(self._workers[index], no_restart=False)

    def _send(self, groups: list[Group]) -> None:
        """Send groups to the worker that was sent the fewest tokens."""
        if not groups:
            return
        index = self._tokens.index(min(self._tokens))
        self._tokens[index] += sum(group.num_tokens for group in groups)
        self._sent.append(_Part(groups, index, self._workers[index].log_probs.remote(groups)))


def _is_lost(call: Any) -> bool:
    """Whether a call failed because its actor is gone."""
    if not ray.wait([call], timeout=0)[0]:
        return False
    try:
        ray.get(call)
    except RayActorError:
        return True
    return False


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
