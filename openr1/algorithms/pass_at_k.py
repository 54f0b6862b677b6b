"""Accuracy from several samples a problem: pass@1, unbiased pass@k, bootstrap intervals over problems."""

from collections.abc import Sequence
from math import comb

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 2000


def pass_at_k(num_correct: int, num_samples: int, k: int) -> float:
    """Probability that at least one of k samples, drawn without replacement from n, is correct.

    1 - C(n - c, k) / C(n, k), unbiased for the pass@k of the model.

    Raises:
        ValueError: k is not in 1..n.

    Example:
        >>> pass_at_k(num_correct=1, num_samples=4, k=2)
        0.5

    Reference:
        Chen et al., Evaluating Large Language Models Trained on Code, arXiv:2107.03374, section 2.1.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k is {k}; it must be between 1 and the {num_samples} samples")
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def mean_with_interval(values: Sequence[float], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean over problems and its 95 % percentile-bootstrap interval.

    Args:
        values: One number a problem (its share of right answers, say).
        seed: Of the resampling.

    Returns:
        Mean and (low, high). Equal values give an interval of no width.
    """
    mean = float(np.mean(values))
    if len(set(values)) == 1:
        return mean, (mean, mean)
    result = bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    )
    return mean, (float(result.confidence_interval.low), float(result.confidence_interval.high))
