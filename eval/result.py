"""Statistics of a benchmark's samples: accuracy, pass@k, maj@k, response lengths and verdicts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from eval.samples import Sample
from openr1.algorithms.pass_at_k import mean_with_interval, pass_at_k
from reward_server.grading.notation import normalize


@dataclass(frozen=True)
class Result:
    """Results of one benchmark.

    Attributes:
        accuracy: pass@1, the mean over problems of the fraction of correct samples.
        ci95: 95 % bootstrap interval of `accuracy`, resampling problems.
        pass_at: Unbiased pass@k for k = 1, 2, 4, ... and the number of samples.
        maj: maj@k, the fraction of problems whose most frequent answer is correct, for the same k.
        response_length: Mean, in tokens.
        verdicts: Number of samples by verdict.
        num_failed: Samples that could not be graded. They count as incorrect, which makes `accuracy` a lower bound.
    """

    num_problems: int
    n_samples_per_prompt: int
    accuracy: float
    ci95: tuple[float, float]
    pass_at: dict[int, float]
    maj: dict[int, float]
    response_length: float
    truncated_fraction: float
    verdicts: dict[str, int]
    num_failed: int


def summarize(groups: Sequence[Sequence[Sample]]) -> Result:
    """Compute the statistics of all problems (at least one), which must have the same number of samples."""
    size = len(groups[0])
    right = [[sample.score == 1.0 for sample in group] for group in groups]
    accuracy, interval = mean_with_interval([fmean(flags) for flags in right])
    samples = [sample for group in groups for sample in group]
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k < size] + [size]
    return Result(
        num_problems=len(groups),
        n_samples_per_prompt=size,
        accuracy=accuracy,
        ci95=interval,
        pass_at={k: fmean(pass_at_k(sum(flags), size, k) for flags in right) for k in ks},
        maj={k: fmean(majority_is_right(group[:k]) for group in groups) for k in ks},
        response_length=fmean(sample.num_tokens for sample in samples),
        truncated_fraction=fmean(sample.truncated for sample in samples),
        verdicts=dict(Counter(sample.verdict for sample in samples).most_common()),
        num_failed=sum(sample.score is None for sample in samples),
    )


def majority_is_right(group: Sequence[Sample]) -> bool:
    """Whether the most frequent answer (majority vote) is correct.

    Answers are equal if their normalized texts are, ignoring whitespace. Samples without an answer do not vote, and
    ties go to the answer that occurs first.

    Reference:
        Wang et al., Self-Consistency Improves Chain of Thought Reasoning, arXiv:2203.11171, section 2.
    """
    votes = Counter("".join(normalize(sample.extracted).split()) for sample in group if sample.extracted is not None)
    if not votes:
        return False
    winner = votes.most_common(1)[0][0]
    return any(
        sample.score == 1.0
        for sample in group
        if sample.extracted is not None and "".join(normalize(sample.extracted).split()) == winner
    )
