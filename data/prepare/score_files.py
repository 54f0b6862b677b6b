"""Read scores and pass rates of prompts from evaluation samples, rollouts and pass_rates.jsonl files."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openr1.data.pass_rates import to_rate
from openr1.errors import ConfigError
from openr1.runtime.files import read_objects


def prompt_id(row: dict[str, Any], location: str) -> str:
    """Return the id of the prompt that a row of evaluation samples or rollouts belongs to.

    Samples have the prompt id in `id` and a separate `index`; the `id` of a rollout is `<prompt id>/<index>`.

    Raises:
        ConfigError: The row is neither a sample nor a rollout.
    """
    name = row.get("id")
    if isinstance(name, str) and "index" in row:
        return name
    if isinstance(name, str) and name.rpartition("/")[2].isdigit() and "finish_reason" in row:
        return name.rpartition("/")[0]
    raise ConfigError(
        f"{location}: neither an evaluation sample (id, index, score) nor a rollout (id, finish_reason, score)"
    )


def read_score(row: dict[str, Any], location: str) -> float | None:
    """Return the score of a row, from 0 to 1, or None if the response could not be graded.

    Raises:
        ConfigError: The score is missing or invalid.
    """
    score = row.get("score", "")
    if score is None:
        return None
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        raise ConfigError(f"{location}: `score` must be a number from 0 to 1, or null")
    return float(score)


def load_pass_rates(paths: Iterable[Path]) -> dict[str, float]:
    """Return the mean score of each prompt over all rows of all files; ungraded responses do not count.

    Args:
        paths: Samples of an evaluation, rollouts of a run, or a run's pass_rates.jsonl, in which each row is weighted
            by its number of attempts.

    Raises:
        MissingError: A file cannot be read.
        ConfigError: A row has no id or no valid score.
    """
    attempts: Counter[str] = Counter()
    solved: dict[str, float] = defaultdict(float)
    for path in paths:
        for location, row in read_objects(path):
            if "newest_pass_rate" in row:
                name, rate = to_rate(row, location)
                attempts[name] += rate.attempts
                solved[name] += rate.attempts * rate.mean
            else:
                score = read_score(row, location)
                if score is not None:
                    name = prompt_id(row, location)
                    attempts[name] += 1
                    solved[name] += score
    return {name: solved[name] / count for name, count in attempts.items()}
