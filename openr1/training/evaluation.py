"""Accuracy of the current weights on held-out prompts, by the same engines and the same get_score as training."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from eval.pass_at_k import mean_with_interval, pass_at_k
from openr1.errors import TrainingError
from openr1.rollout.sampling_params import Sampling
from openr1.runtime.files import write_whole
from openr1.training.trainer import Rewards, Rollout
from openr1.types import Prompt


@dataclass(frozen=True)
class Measurement:
    """Accuracy of one sampling over all prompts.

    `accuracy` is pass@1: the mean over prompts of their share of right responses; `ci95` its bootstrap interval over
    prompts. `pass_at_k` is pass@k with k = `n_samples_per_prompt`. `num_failed` responses could not be graded and count
    as not right, so with any the others are lower bounds.
    """

    accuracy: float
    ci95: tuple[float, float]
    pass_at_k: float
    num_prompts: int
    n_samples_per_prompt: int
    temperature: float
    response_length: float
    truncated_fraction: float
    num_failed: int = 0


def measure(
    prompts: Sequence[Prompt],
    rollout: Rollout,
    rewards: Rewards,
    sampling: Sampling,
    max_failed_fraction: float = 0.0,
    on_group: Callable[[], None] = lambda: None,
) -> Measurement:
    """Sample every prompt and score the responses.

    Args:
        prompts: At least one.
        rollout: The engines, holding the weights to be measured.
        rewards: The reward server; `score` is the accuracy.
        sampling: How; `n_samples_per_prompt` responses each.
        max_failed_fraction: Share of the responses that may stay ungraded, 0 to 1. They count as not right: without
            them the accuracy would be that of other responses, and could rise where grading fails.
        on_group: Called as each group finishes, for progress.

    Raises:
        TrainingError: More responses than that could not be graded.
    """
    pending = []
    for group in rollout.generate(prompts, sampling):
        pending.append((group, rewards.submit(group)))
        on_group()
    pending.sort(key=lambda item: item[0].prompt.id)
    accuracies, passes, failures = [], [], []
    for group, future in pending:
        scores = future.result()
        right = [score.accuracy or 0.0 for score in scores]
        accuracies.append(sum(right) / len(right))
        passes.append(pass_at_k(sum(value == 1.0 for value in right), len(right), len(right)))
        named = zip(group.ids, scores, strict=True)
        failures += [f"{name}: {score.error}" for name, score in named if score.accuracy is None]
    responses = [response for group, _ in pending for response in group.responses]
    failed = len(failures) / len(responses)
    if failed > max_failed_fraction:
        raise TrainingError(
            f"{failed:.1%} of the held-out responses could not be graded, more than reward.max_failed_fraction "
            f"{max_failed_fraction:g} allows; the first error: {failures[0]}"
        )
    accuracy, interval = mean_with_interval(accuracies)
    return Measurement(
        accuracy=accuracy,
        ci95=interval,
        pass_at_k=sum(passes) / len(passes),
        num_prompts=len(pending),
        n_samples_per_prompt=sampling.n_samples_per_prompt,
        temperature=sampling.temperature,
        response_length=sum(len(response.token_ids) for response in responses) / len(responses),
        truncated_fraction=sum(response.truncated for response in responses) / len(responses),
        num_failed=len(failures),
    )


def write_measurements(path: Path, measurements: dict[str, Measurement]) -> None:
    """Write measurements by name, complete or not at all."""
    rows = {name: asdict(measurement) for name, measurement in measurements.items()}
    write_whole(path, json.dumps(rows, indent=2) + "\n")


def read_measurements(path: Path) -> dict[str, Measurement]:
    """What `write_measurements` wrote."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {name: Measurement(**{**row, "ci95": tuple(row["ci95"])}) for name, row in rows.items()}
