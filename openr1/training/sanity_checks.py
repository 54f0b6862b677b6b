"""Checks of each step's metrics against bounds that must hold, or the run trains on something else than it seems to."""

from openr1.algorithms.mismatch import ABORT_FACTOR, LIKELY_CAUSES, mismatch_bound
from openr1.config.train import TrainConfig
from openr1.errors import TrainingError
from openr1.rollout.experience import StepResult
from openr1.runtime.console import say

REFERENCE_KL_BOUNDS = {"float32": 1e-6, "bfloat16": 1e-3}
"""Largest KL between policy and reference before the first update, nats per token: they are the same model."""


class SanityChecks:
    """Ends the run if something is certainly wrong, and warns once if it may be."""

    def __init__(self, config: TrainConfig) -> None:
        """Take the run's settings; no step was seen yet."""
        self._dtype = config.model.dtype
        self._has_teacher = config.has_teacher
        # With top-p below 1 the engine's log-probs are those of the truncated distribution and legitimately differ.
        self._comparable = config.rollout.top_p == 1.0
        self._warned = False

    def check(self, result: StepResult) -> None:
        """Check a step.

        Raises:
            TrainingError: The reference is not the model that the run began with, or engine and trainer differ by more
                than rounding can explain.
        """
        kl, kl_bound = result.metrics["policy/kl_before"], REFERENCE_KL_BOUNDS[self._dtype]
        # Negated: NaN is out of bounds, too.
        if result.step == 1 and not self._has_teacher and not kl <= kl_bound:
            raise TrainingError(
                f"step 1: before any update the policy is {kl:.2g} nats (policy/kl_before) from the reference, more "
                f"than {kl_bound:g}: they were not loaded from the same weights"
            )
        mismatch = result.metrics["rollout/mismatch_abs_mean"]
        bound = mismatch_bound(self._dtype, result.metrics["policy/entropy"])
        # Log-probs sampled under stale weights legitimately differ.
        fresh = result.metrics["rollout/staleness_max"] == 0
        if not self._comparable or not fresh or mismatch <= bound:
            return
        problem = (
            f"step {result.step}: engine and trainer differ by {mismatch:.2g} nats per token, more than {bound:.2g} "
            f"({self._dtype}; rollout/mismatch_abs_mean); likely causes: {LIKELY_CAUSES}"
        )
        if not mismatch <= ABORT_FACTOR * bound:
            raise TrainingError(problem)
        if not self._warned:
            self._warned = True
            say(f"warning: {problem}")
