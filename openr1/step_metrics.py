"""What a step says of itself: numbers over its groups, scores and updates."""

from collections.abc import Sequence

import torch

from openr1.algorithms.advantages import has_signal
from openr1.algorithms.shaping import is_mixed
from openr1.records import Group, Score


def has_both(scores: Sequence[Score]) -> bool:
    """Whether a group has right and wrong answers; those that could not be graded do not count."""
    accuracies = torch.tensor([[0.0 if score.accuracy is None else score.accuracy for score in scores]])
    return bool(is_mixed(accuracies, torch.tensor([[score.valid for score in scores]])))


def all_right(scores: Sequence[Score]) -> bool:
    """Whether all graded answers of a group are right, and there is one."""
    graded = [score.accuracy == 1.0 for score in scores if score.valid]
    return bool(graded) and all(graded)


def failed_fraction(valid: torch.Tensor) -> float:
    """Share of responses that could not be graded; exact, since it is compared with a limit."""
    return int((~valid).sum()) / valid.numel()


def step_metrics(
    groups: list[Group],
    scores: list[list[Score]],
    rewards: torch.Tensor,
    valid: torch.Tensor,
    updates: list[dict[str, float]],
) -> dict[str, float]:
    """The step's metrics, but for times: means over valid responses, over responses, or over response tokens."""
    responses = [response for group in groups for response in group.responses]
    flat = [score for group in scores for score in group if score.valid]
    tokens = sum(update["tokens"] for update in updates)

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
        "reward/failed_fraction": failed_fraction(valid),
        "reward/signal_fraction": float(has_signal(rewards, valid).float().mean()),
        "rollout/response_length_mean": mean([float(len(response.token_ids)) for response in responses]),
        "rollout/truncated_fraction": mean([float(response.truncated) for response in responses]),
        "rollout/mismatch_kl": token_mean("mismatch_kl"),
        "rollout/mismatch_abs_mean": token_mean("mismatch_abs"),
        "rollout/effective_sample_fraction": token_mean("weight") ** 2 / token_mean("weight_squared"),
        "policy/loss": mean([update["loss"] for update in updates]),
        "policy/kl": token_mean("kl"),
        "policy/entropy": token_mean("entropy"),
        "policy/clip_fraction": token_mean("clipped"),
        "policy/importance_weight_mean": token_mean("importance"),
        "policy/rejected_fraction": token_mean("rejected"),
        "policy/grad_norm": mean([update["grad_norm"] for update in updates]),
        "policy/learning_rate": updates[-1]["learning_rate"],
    }
