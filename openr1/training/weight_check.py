"""Verifies by log-probs that every engine uses the policy's weights.

A version number only proves what an engine was sent. It may still compute with older weights: a fused or tied weight
that loading did not update, a packed copy, a cached prefix. `training/sanity_checks.py` compares log-probs on average
over all responses of a step, if they were sampled under the newest weights. This check queries every engine
separately, after the first push and every `rollout.verify_steps` steps.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.mismatch import ABORT_FACTOR, LIKELY_CAUSES, mismatch_bound
from openr1.config.train import TrainConfig
from openr1.errors import WeightSyncError
from openr1.interfaces import Policy, Rollout
from openr1.rollout.sampling_params import training_sampling
from openr1.types import Prompt

NUM_PROMPTS = 8
NUM_TOKENS = 16
"""Maximum response length: enough to exercise both prefill and decoding."""


class Difference(NamedTuple):
    """Mean absolute log-prob difference between policy and an engine per sampled token.

    Attributes:
        nats: The difference.
        bound: What rounding cannot exceed.
    """

    nats: float
    bound: float


class WeightCheck:
    """Samples a few short responses on each engine and compares their log-probs with the policy's."""

    def __init__(
        self, config: TrainConfig, engines: Sequence[Rollout], policy: Policy, prompts: Sequence[Prompt]
    ) -> None:
        """Set up the check.

        Args:
            config: The run's.
            engines: One single-engine rollout per engine.
            policy: The policy whose weights are pushed.
            prompts: Only the first NUM_PROMPTS are used.
        """
        # top_p is always 1: the log-probs of a truncated distribution differ from the policy's.
        longest = min(NUM_TOKENS, config.rollout.generate_max_len)
        sampling = training_sampling(config, "verify")
        self._sampling = replace(
            sampling, n_samples_per_prompt=1, generate_max_len=longest, top_p=1.0, single_turn=True
        )
        self._dtype = config.model.dtype
        self._engines = engines
        self._policy = policy
        self._prompts = prompts[:NUM_PROMPTS]

    def differences(self) -> list[Difference]:
        """How far each engine is from the policy. Costs one forward pass of the policy."""
        asked = [list(engine.generate(self._prompts, self._sampling)) for engine in self._engines]
        if not asked:
            return []
        batch = TrainBatch.from_groups([group for groups in asked for group in groups])
        sampled, mask = batch.rollout_log_probs, batch.response_mask
        difference = (self._policy.log_probs(batch) - sampled).abs()
        engines = zip(*(values.split(len(self._prompts)) for values in (difference, sampled, mask)), strict=True)
        return [self._difference(nats[own], log_probs[own]) for nats, log_probs, own in engines]

    def _difference(self, nats: torch.Tensor, sampled: torch.Tensor) -> Difference:
        # Minus the log-probs of the distribution that was sampled from estimates its entropy.
        bound = ABORT_FACTOR * mismatch_bound(self._dtype, -float(sampled.mean()))
        return Difference(float(nats.mean()), bound)

    def check(self, step: int) -> None:
        """Compare after a push and before the next update. `step` is used in the message only.

        Raises:
            WeightSyncError: An engine exceeds the bound.
        """
        for engine, (difference, bound) in enumerate(self.differences()):
            if not difference <= bound:  # Also true for NaN.
                raise WeightSyncError(
                    f"after the push of step {step}, engine {engine} and the policy differ by {difference:.2g} nats a "
                    f"token, more than {bound:.2g} ({self._dtype}); likely causes: "
                    f"{LIKELY_CAUSES}; see logs/engine_{engine}.log"
                )
