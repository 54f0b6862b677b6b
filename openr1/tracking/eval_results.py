"""Results of held-out evaluations, stored in eval/step_NNNNNN.json of the run folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from openr1.runtime.files import write_whole


@dataclass(frozen=True)
class EvalResult:
    """Accuracy over all held-out prompts under one sampling configuration.

    Attributes:
        accuracy: pass@1, the mean over prompts of the fraction of correct responses.
        ci95: 95 % bootstrap interval of `accuracy`, resampling prompts.
        pass_at_k: pass@k with k = `n_samples_per_prompt`.
        response_length: Mean, in tokens.
        num_failed: Responses that could not be graded. They count as incorrect, which makes the accuracies lower
            bounds.
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
    """Path of the evaluation results of a step in a run folder."""
    return folder / "eval" / f"step_{step:06d}.json"


def write_eval_results(path: Path, results: dict[str, EvalResult]) -> None:
    """Write results by sampling configuration (sampled, greedy, base), atomically."""
    rows = {name: asdict(result) for name, result in results.items()}
    write_whole(path, json.dumps(rows, indent=2) + "\n")


def read_eval_results(path: Path) -> dict[str, EvalResult]:
    """Read what `write_eval_results` wrote; empty if the file does not exist."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {name: EvalResult(**{**row, "ci95": tuple(row["ci95"])}) for name, row in rows.items()}
