"""All metrics of a step, assembled in one place; docs/metrics.md explains each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openr1.algorithms.advantages import has_reward_variance
from openr1.algorithms.objectives.base import StepStats
from openr1.algorithms.objectives.policy import PolicySums
from openr1.rollout.experience import Experience
from openr1.rollout.producer import has_mixed_outcomes
from openr1.types import Grade, Group, ScoredGroup, WeightVersion


@dataclass(frozen=True)
class StepUpdates:
    """What the optimizer steps of one training step reported: the policy's in order, and the critic's metrics."""

    policy: list[StepStats[PolicySums]]
    critic: dict[str, float]


def failed_fraction(grades: Sequence[Grade]) -> float:
    """Fraction of responses that could not be graded; exact, since it is compared with a limit."""
    return sum(not grade.valid for grade in grades) / len(grades)


def step_metrics(
    experience: Experience, updates: StepUpdates, version: WeightVersion, kl_coef: float
) -> dict[str, float]:
    """Everything but times.

    Args:
        experience: With advantages.
        updates: Of this step.
        version: Weight version after this step.
        kl_coef: KL coefficient of this step.
    """
    return {
        **_reward_metrics(experience),
        **_rollout_metrics(experience),
        **_policy_metrics(updates.policy),
        **_dropped_metrics(experience.dropped),
        **updates.critic,
        **_staleness_metrics(experience.groups, version - 1),
        "policy/kl_coef": kl_coef,
        "sync/version": version,
    }


def skip_metrics(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, float]:
    """How many prompts a step skipped by their pass rates, and why, in all datasets together.

    Args:
        before: Position in the data before the step's prompts were taken, without counts at the start of a run.
        after: Position after that; empty metrics if nothing can be skipped.
    """
    skipped: Counter[str] = Counter()
    for key, count in after.items():
        name = key.rpartition(".")[2]
        if name.startswith("skipped_"):
            skipped[f"rollout/{name}"] += count - before.get(key, 0)
    return {name: float(count) for name, count in skipped.items()}


def time_metrics(experience: Experience, step_seconds: float) -> dict[str, float]:
    """Wall time of each phase and of the whole step, and the throughput over all sampled groups."""
    seconds = experience.seconds | {"step": step_seconds}
    tokens = sum(scored.group.num_tokens for scored in experience.sampled)
    return {
        "sync/seconds": seconds["sync"],
        "throughput/tokens_per_second": tokens / step_seconds,
        **{f"time/{phase}_seconds": value for phase, value in seconds.items()},
    }


def _reward_metrics(experience: Experience) -> dict[str, float]:
    """Means over graded responses, dropped groups included but for the shaped rewards."""
    grades = [grade for scored in experience.sampled for grade in scored.grades]
    valid = [grade for grade in grades if grade.valid]
    names = sorted({name for grade in valid for name in grade.components})
    shaped, trained = experience.shaped_rewards, experience.valid
    return {
        **{
            f"reward/{name}": _mean([grade.components[name] for grade in valid if name in grade.components])
            for name in names
        },
        "reward/mean": _mean([grade.reward for grade in valid if grade.reward is not None]),
        "reward/accuracy": _mean([grade.score for grade in valid if grade.score is not None]),
        "reward/failed_fraction": failed_fraction(grades),
        "reward/shaped_mean": float(shaped[trained].mean()) if trained.any() else 0.0,
        "reward/signal_fraction": float(has_reward_variance(shaped, trained).float().mean()),
    }


def _rollout_metrics(experience: Experience) -> dict[str, float]:
    responses = [response for scored in experience.sampled for response in scored.group.responses]
    return {
        "rollout/response_length_mean": _mean([float(response.num_tokens) for response in responses]),
        "rollout/truncated_fraction": _mean([float(response.truncated) for response in responses]),
    }


def _policy_metrics(updates: Sequence[StepStats[PolicySums]]) -> dict[str, float]:
    """Means over the tokens that trained, in all optimizer steps together; 0 if none did."""
    sums = PolicySums(*(sum(values) for values in zip(*(update.sums for update in updates), strict=True)))
    mean = PolicySums(*(value / max(sums.tokens, 1.0) for value in sums))
    first = updates[0].sums
    return {
        "rollout/mismatch_kl": mean.mismatch_kl,
        "rollout/mismatch_abs_mean": mean.mismatch_abs,
        "rollout/effective_sample_fraction": mean.weight**2 / (mean.weight_squared or 1.0),
        "policy/loss": _mean([update.loss for update in updates]),
        "policy/kl": mean.kl,
        "policy/kl_before": first.kl / max(first.tokens, 1.0),
        "policy/entropy": mean.entropy,
        "policy/clip_fraction": mean.clipped,
        "policy/importance_weight_mean": mean.importance,
        "policy/rejected_fraction": mean.rejected,
        "policy/grad_norm": _mean([update.grad_norm for update in updates]),
        "policy/learning_rate": updates[-1].learning_rate,
    }


def _dropped_metrics(dropped: Sequence[ScoredGroup]) -> dict[str, float]:
    """How many groups dynamic sampling dropped, and why; a group without a graded answer counts as all wrong."""
    mixed = [has_mixed_outcomes(scored.grades) for scored in dropped]
    any_right = [any(grade.score == 1.0 for grade in scored.grades) for scored in dropped]
    return {
        "rollout/dropped_surplus": float(sum(mixed)),
        "rollout/dropped_all_right": float(sum(r and not m for r, m in zip(any_right, mixed, strict=True))),
        "rollout/dropped_all_wrong": float(sum(not r and not m for r, m in zip(any_right, mixed, strict=True))),
    }


def _staleness_metrics(groups: Sequence[Group], version: WeightVersion) -> dict[str, float]:
    """Policy lag: how many steps older than the trained weights are those that sampled a response's first token."""
    staleness = [version - response.weight_version for group in groups for response in group.responses]
    return {
        "rollout/staleness_mean": sum(staleness) / len(staleness),
        "rollout/staleness_max": float(max(staleness)),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
