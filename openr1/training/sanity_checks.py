"""What must hold at every step, or the run trains on something else than it believes."""

from openr1.config.train import TrainConfig
from openr1.errors import TrainingError
from openr1.runtime.console import say
from openr1.training.trainer import StepRecord

MISMATCH_BOUNDS = {"float32": 1e-3, "bfloat16": 0.05}
"""Mean of abs(trainer's - engine's log-prob) of a token, nats, above which it is told; 0.03 may be bfloat16."""
BROKEN = 4
"""Times these bounds, at the first step, it is no rounding: the run ends before it has learned anything wrong."""
REFERENCE_KL_BOUNDS = {"float32": 1e-6, "bfloat16": 1e-3}
"""Largest KL divergence between policy and reference before the first update, nats a token: they are the same model."""
SUSPECTS = (
    "weights that did not reach the engines (a stale version, a tied or fused weight), a prefix cache of older ones, "
    "another temperature or top-p on one side, a model that the engine computes differently"
)


class Watch:
    """Compares each step's metrics with bounds: what is wrong from the start ends the run, later it is told once."""

    def __init__(self, config: TrainConfig) -> None:
        """Take the run's settings; nothing was seen yet."""
        self._dtype = config.model.dtype
        # Of a cut distribution, the engine's log-probs are others than the trainer's, and rightly so.
        # Records may be of weights that a replay does not have.
        self._comparable = config.rollout.top_p == 1.0 and config.debug.replay is None
        # Recorded reference log-probs may be of another model or type.
        self._replays = config.debug.replay is not None
        self._first = True
        self._told = False

    def check(self, record: StepRecord) -> None:
        """Look at a step. The first that is given is the first of this process, after a start or a resume.

        Raises:
            TrainingError: The first step is out of bounds.
        """
        first, self._first = self._first, False
        kl, kl_bound = record.metrics["policy/kl_before"], REFERENCE_KL_BOUNDS[self._dtype]
        if record.step == 1 and not self._replays and kl > kl_bound:
            raise TrainingError(
                f"step 1: before any update the policy is {kl:.2g} nats (policy/kl_before) from the reference, more "
                f"than {kl_bound:g}: they were not loaded from the same weights"
            )
        mismatch, bound = record.metrics["rollout/mismatch_abs_mean"], MISMATCH_BOUNDS[self._dtype]
        # Of older weights, too, they are others.
        fresh = record.metrics["rollout/staleness_max"] == 0
        if not self._comparable or not fresh or mismatch <= bound:
            return
        what = (
            f"step {record.step}: engine and trainer differ by {mismatch:.2g} nats a token, more than {bound:g} "
            f"({self._dtype}; rollout/mismatch_abs_mean); suspects: {SUSPECTS}"
        )
        if first and mismatch > BROKEN * bound:
            raise TrainingError(what)
        if not self._told:
            self._told = True
            say(f"warning: {what}")
