"""Bounds on the difference between engine and trainer log-probs of the same tokens under the same weights."""

MISMATCH_WARN = {"float32": 1e-3, "bfloat16": 0.05}
"""Mean of abs(trainer's - engine's log-prob) of a token, nats, above which to warn; up to 0.03 is ordinary bfloat16
rounding."""
ABORT_FACTOR = 4
"""Factor over the bound beyond which the difference cannot be rounding."""
LIKELY_CAUSES = (
    "weights that did not reach the engines (a stale version, a tied or fused weight), an outdated prefix cache, "
    "a different temperature or top-p on one side, a model that the engine computes differently"
)
