"""Accuracy of the current weights on held-out prompts, with the engines and the reward server of training."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from openr1.algorithms.pass_at_k import mean_with_interval, pass_at_k
from openr1.config.train import TrainConfig
from openr1.errors import TrainingError
from openr1.interfaces import RewardSource, Rollout
from openr1.rollout.sampling_params import training_sampling
from openr1.runtime.console import progress
from openr1.tracking.eval_results import EvalResult, eval_path, read_eval_results, write_eval_results
from openr1.types import Prompt, SamplingParams


class Evaluator:
    """Evaluates held-out prompts at given steps, and keeps the results in the run folder."""

    def __init__(self, config: TrainConfig, prompts: Sequence[Prompt], rollout: Rollout, rewards: RewardSource) -> None:
        """Without `prompts` every evaluation is empty."""
        self._config = config
        self._prompts = prompts
        self._rollout = rollout
        self._rewards = rewards

    def is_due(self, step: int) -> bool:
        """Whether `evaluation.eval_steps` asks for an evaluation after this step."""
        every = self._config.evaluation.eval_steps
        return every > 0 and step % every == 0 and len(self._prompts) > 0

    def results(self, step: int) -> dict[str, EvalResult]:
        """Results of a step, by sampling; nothing if it was not evaluated."""
        return read_eval_results(eval_path(self._config.run.folder, step))

    def evaluate(self, step: int) -> dict[str, EvalResult]:
        """Evaluate the weights of the step that is complete, and write the results; nothing without prompts.

        Raises:
            TrainingError: More responses are ungraded than `reward.max_failed_fraction` allows.
        """
        if not self._prompts:
            return {}
        kinds, allowed = self._samplings(step), self._config.reward.max_failed_fraction
        results = {}
        with progress(f"evaluating step {step}", len(kinds) * len(self._prompts)) as advance:
            for kind, sampling in kinds.items():
                results[kind] = evaluate(self._prompts, self._rollout, self._rewards, sampling, allowed, advance)
        write_eval_results(eval_path(self._config.run.folder, step), results)
        return results

    def _samplings(self, step: int) -> dict[str, SamplingParams]:
        """As in training; before the first step and after the last one greedily, too."""
        evaluation, sampling = self._config.evaluation, training_sampling(self._config, "eval")
        sampled = replace(sampling, n_samples_per_prompt=evaluation.n_samples_per_prompt)
        kinds = {"sampled": sampled}
        if step in (0, self._config.num_steps):
            kinds["greedy"] = replace(sampled, n_samples_per_prompt=1, temperature=0.0, top_p=1.0)
        if step == 0 and evaluation.base_pass_at > 0:
            kinds["base"] = replace(sampled, n_samples_per_prompt=evaluation.base_pass_at, seed_stream="eval/base")
        return kinds


def evaluate(
    prompts: Sequence[Prompt],
    rollout: Rollout,
    rewards: RewardSource,
    sampling: SamplingParams,
    max_failed_fraction: float = 0.0,
    on_group: Callable[[], None] = lambda: None,
) -> EvalResult:
    """Sample every prompt and score the responses.

    Args:
        prompts: At least one.
        rollout: The engines, holding the weights to be evaluated.
        rewards: The reward server; the mean of its `score` is the accuracy.
        sampling: `n_samples_per_prompt` responses each.
        max_failed_fraction: Fraction of the responses that may be ungraded, 0 to 1. They count as incorrect: leaving
            them out would raise the accuracy wherever grading fails.
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
        grades = future.result()
        scores = [grade.score or 0.0 for grade in grades]
        accuracies.append(sum(scores) / len(scores))
        passes.append(pass_at_k(sum(score == 1.0 for score in scores), len(scores), len(scores)))
        named = zip(group.ids, grades, strict=True)
        failures += [f"{name}: {grade.error}" for name, grade in named if grade.score is None]
    responses = [response for group, _ in pending for response in group.responses]
    failed = len(failures) / len(responses)
    if failed > max_failed_fraction:
        raise TrainingError(
            f"{failed:.1%} of the held-out responses could not be graded, more than reward.max_failed_fraction "
            f"{max_failed_fraction:g} allows; the first error: {failures[0]}"
        )
    accuracy, interval = mean_with_interval(accuracies)
    return EvalResult(
        accuracy=accuracy,
        ci95=interval,
        pass_at_k=sum(passes) / len(passes),
        num_prompts=len(pending),
        n_samples_per_prompt=sampling.n_samples_per_prompt,
        temperature=sampling.temperature,
        response_length=sum(response.num_tokens for response in responses) / len(responses),
        truncated_fraction=sum(response.truncated for response in responses) / len(responses),
        num_failed=len(failures),
    )
