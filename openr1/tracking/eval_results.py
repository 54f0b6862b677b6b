"""Results of held-out evaluations: eval/step_NNNNNN.json of a run folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from openr1.runtime.files import write_whole


@dataclass(frozen=True)
class EvalResult:
    """Accuracy of one kind of sampling over all held-out prompts.

    `accuracy` is pass@1: the mean over prompts of their fraction of correct responses; `ci95` its bootstrap interval
    over prompts. `pass_at_k` is pass@k with k = `n_samples_per_prompt`. `response_length` is in tokens. `num_failed`
    responses could not be graded and count as incorrect, so the accuracies are lower bounds if there are any.
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


def eval_path(folder: Path, step: int) -> Path:
    """The file of a step's evaluation in a run folder."""
    return folder / "eval" / f"step_{step:06d}.json"


def write_eval_results(path: Path, results: dict[str, EvalResult]) -> None:
    """Write results by the name of their sampling (sampled, greedy, base), complete or not at all."""
    rows = {name: asdict(result) for name, result in results.items()}
    write_whole(path, json.dumps(rows, indent=2) + "\n")


def read_eval_results(path: Path) -> dict[str, EvalResult]:
    """Read what `write_eval_results` wrote; nothing if there is no such file."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {name: EvalResult(**{**row, "ci95": tuple(row["ci95"])}) for name, row in rows.items()}
