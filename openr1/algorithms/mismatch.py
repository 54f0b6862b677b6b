"""Bounds on the difference between engine and trainer log-probs of the same tokens under the same weights.

Rounding moves the log-prob of an uncertain token more than that of a certain one, so bounds are a part of the entropy.
Measured in bfloat16 on the CPU: 0.5 to 0.8 % of it with the tiny model (entropy 0.2), 1.0 to 1.6 % with SmolLM2-135M
(entropy 1.8 to 2.5); in float32 below 0.001 %. Nothing was measured on a GPU, where kernels may round float32 operands.
"""

WARN_FRACTION = {"float32": 5e-3, "bfloat16": 0.08}
"""Mean of abs(trainer's - engine's log-prob) of a token, as a part of the entropy, above which to warn."""
ENTROPY_RANGE = (0.1, 1.5)
"""Entropies, in nats, outside of which the bound does not change: a model that is nearly certain still rounds, and one
that is not trained at all rounds less than the rule says."""
ABORT_FACTOR = 4
"""Factor over the bound beyond which the difference cannot be rounding."""
LIKELY_CAUSES = (
    "weights that did not reach the engines (a stale version, a tied or fused weight), an outdated prefix cache, "
    "a different temperature or top-p on one side, a model that the engine computes differently"
)


def mismatch_bound(dtype: str, entropy: float) -> float:
    """Mean absolute difference per token, in nats, above which to warn.

    Args:
        dtype: Of the weights.
        entropy: Mean entropy of the sampled distribution, in nats; minus the mean log-prob of the tokens estimates it.
    """
    low, high = ENTROPY_RANGE
    return WARN_FRACTION[dtype] * min(max(entropy, low), high)
