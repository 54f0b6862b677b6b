"""What a step says of itself: numbers over its groups, scores and updates."""

from collections.abc import Sequence

import torch

from openr1.algorithms.advantages import has_signal
from openr1.types import Group, Score, WeightVersion

Graded = list[tuple[Group, list[Score]]]
"""Groups with the scores of their responses."""


def has_both(scores: Sequence[Score]) -> bool:
    """Whether a group has right and wrong answers; those that could not be graded do not count.

    What dynamic sampling keeps (DAPO, arXiv:2503.14476, equation 11). Accuracy decides, not the reward: shaping makes
    rewards differ where all answers are wrong.
    """
    accuracies = torch.tensor([[0.0 if score.accuracy is None else score.accuracy for score in scores]])
    return bool(has_signal(accuracies, torch.tensor([[score.valid for score in scores]])))


def failed_fraction(scores: Sequence[Score]) -> float:
    """Share of responses that could not be graded; exact, since it is compared with a limit."""
    return sum(not score.valid for score in scores) / len(scores)


def dropped_metrics(dropped: Graded) -> dict[str, float]:
    """How many groups dynamic sampling left out, and why; without a graded answer they count as all wrong."""
    useful = [has_both(scores) for _, scores in dropped]
    right = [any(score.accuracy == 1.0 for score in scores) for _, scores in dropped]
    return {
        "rollout/dropped_surplus": float(sum(useful)),
        "rollout/dropped_all_right": float(sum(r and not u for r, u in zip(right, useful, strict=True))),
        "rollout/dropped_all_wrong": float(sum(not r and not u for r, u in zip(right, useful, strict=True))),
    }


def staleness_metrics(groups: Sequence[Group], version: WeightVersion) -> dict[str, float]:
    """How many steps old the weights are that made a response's first token, when it trains."""
    staleness = [version - response.weight_version for group in groups for response in group.responses]
    return {
        "rollout/staleness_mean": sum(staleness) / len(staleness),
        "rollout/staleness_max": float(max(staleness)),
    }


def time_metrics(sampled: Graded, seconds: dict[str, float], version: WeightVersion) -> dict[str, float]:
    """What took how long; `seconds` of each phase, `step` of the whole."""
    return {
        "sync/seconds": seconds["sync"],
        "sync/version": version,
        "throughput/tokens_per_second": sum(group.num_tokens for group, _ in sampled) / seconds["step"],
    } | {f"time/{phase}_seconds": seconds[phase] for phase in seconds}


def step_metrics(sampled: Graded, updates: list[dict[str, float]]) -> dict[str, float]:
    """The step's metrics, but for times: means over graded responses, over responses, or over tokens that train.

    Args:
        sampled: All groups, those that were dropped included.
        updates: What the policy answered to each optimizer step.
    """
    responses = [response for group, _ in sampled for response in group.responses]
    scores = [score for _, scores in sampled for score in scores]
    flat = [score for score in scores if score.valid]
    # Where all responses are masked nothing trains, and means over tokens are 0.
    tokens = max(sum(update["tokens"] for update in updates), 1.0)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def token_mean(name: str) -> float:
        return sum(update[name] for update in updates) / tokens

    components = {name for score in flat for name in score.components}
    return {
        **{
            f"reward/{name}": mean([score.components[name] for score in flat if name in score.components])
            for name in sorted(components)
        },
        "reward/mean": mean([score.reward for score in flat if score.reward is not None]),
        "reward/accuracy": mean([score.accuracy for score in flat if score.accuracy is not None]),
        "reward/failed_fraction": failed_fraction(scores),
        "rollout/response_length_mean": mean([float(len(response.token_ids)) for response in responses]),
        "rollout/truncated_fraction": mean([float(response.truncated) for response in responses]),
        "rollout/mismatch_kl": token_mean("mismatch_kl"),
        "rollout/mismatch_abs_mean": token_mean("mismatch_abs"),
        "rollout/effective_sample_fraction": token_mean("weight") ** 2 / (token_mean("weight_squared") or 1.0),
        "policy/loss": mean([update["loss"] for update in updates]),
        "policy/kl": token_mean("kl"),
        "policy/kl_before": updates[0]["kl"] / max(updates[0]["tokens"], 1.0),
        "policy/entropy": token_mean("entropy"),
        "policy/clip_fraction": token_mean("clipped"),
        "policy/importance_weight_mean": token_mean("importance"),
        "policy/rejected_fraction": token_mean("rejected"),
        "policy/grad_norm": mean([update["grad_norm"] for update in updates]),
        "policy/learning_rate": updates[-1]["learning_rate"],
    }
