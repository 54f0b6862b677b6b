"""Whether every engine has the policy's weights in service, shown by log-probs.

A version number tells what an engine was sent. What it computes with may still be older: a fused or tied weight that
the load did not reach, a packed copy, a cached prefix. `training/sanity_checks.py` sees the difference in the mean
over a step's responses, if the newest weights sampled them; here every engine is queried separately, after the first
push and every `rollout.verify_steps` steps.
"""

from collections.abc import Sequence
from dataclasses import replace

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.mismatch import ABORT_FACTOR, LIKELY_CAUSES, MISMATCH_WARN
from openr1.config.train import TrainConfig
from openr1.errors import WeightSyncError
from openr1.interfaces import Policy, Rollout
from openr1.rollout.sampling_params import training_sampling
from openr1.types import Prompt

NUM_PROMPTS = 8
NUM_TOKENS = 16
"""Of each response at most: enough to use the weights for prompts and for single tokens."""


class WeightCheck:
    """Samples a few short responses on each engine, and compares their log-probs with the policy's."""

    def __init__(
        self, config: TrainConfig, engines: Sequence[Rollout], policy: Policy, prompts: Sequence[Prompt]
    ) -> None:
        """Of `engines` each stands for one alone; of `prompts` the first few are used."""
        # top_p is 1 whatever the run's is: log-probs of a cut distribution are others than the policy's.
        longest = min(NUM_TOKENS, config.rollout.generate_max_len)
        sampling = training_sampling(config, "verify")
        self._sampling = replace(sampling, n_samples_per_prompt=1, generate_max_len=longest, top_p=1.0)
        self._dtype = config.model.dtype
        self._engines = engines
        self._policy = policy
        self._prompts = prompts[:NUM_PROMPTS]

    def differences(self) -> list[float]:
        """For each engine the mean of abs(policy's - engine's log-prob) of a sampled token, nats; costs one pass."""
        asked = [list(engine.generate(self._prompts, self._sampling)) for engine in self._engines]
        if not asked:
            return []
        batch = TrainBatch.from_groups([group for groups in asked for group in groups])
        difference = (self._policy.log_probs(batch) - batch.rollout_log_probs).abs()
        parts = zip(difference.split(len(self._prompts)), batch.response_mask.split(len(self._prompts)), strict=True)
        return [float(part[mask].mean()) for part, mask in parts]

    def check(self, step: int) -> None:
        """Compare, right after a push and before the next update; `step` is for the message.

        The bound is that of the first step's mismatch, `ABORT_FACTOR` x `MISMATCH_WARN`: beyond it, it is no rounding.

        Raises:
            WeightSyncError: An engine is out of bounds.
        """
        bound = ABORT_FACTOR * MISMATCH_WARN[self._dtype]
        for engine, difference in enumerate(self.differences()):
            if not difference <= bound:  # Not a number is out of bounds, too.
                raise WeightSyncError(
                    f"after the push of step {step}, engine {engine} and the policy differ by {difference:.2g} nats a "
                    f"token, more than {bound:g} ({self._dtype}); likely causes: "
                    f"{LIKELY_CAUSES}; see logs/engine_{engine}.log"
                )
