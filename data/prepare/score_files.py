"""Pass rates of prompts, from what an evaluation or a run wrote down."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError
from openr1.files import read_objects
from openr1.pass_rates import to_rate


def prompt_id(row: dict[str, Any], place: str) -> str:
    """The prompt that a row of eval's samples or of a run's rollouts belongs to.

    Samples have the prompt's id, and an `index`; rollouts have `<prompt id>/<index>`.

    Raises:
        ConfigError: The row is of neither kind.
    """
    name = row.get("id")
    if isinstance(name, str) and "index" in row:
        return name
    if isinstance(name, str) and name.rpartition("/")[2].isdigit() and "finish_reason" in row:
        return name.rpartition("/")[0]
    raise ConfigError(f"{place}: a row of neither samples (id, index, score) nor rollouts (id, finish_reason, score)")


def read_score(row: dict[str, Any], place: str) -> float | None:
    """The row's score, 0 to 1; None where the response could not be graded.

    Raises:
        ConfigError: It is missing, or something else.
    """
    score = row.get("score", "")
    if score is None:
        return None
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        raise ConfigError(f"{place}: `score` must be a number from 0 to 1, or null")
    return float(score)


def load_pass_rates(paths: Iterable[Path]) -> dict[str, float]:
    """Mean score of each prompt over all rows of all files; ungraded responses do not count.

    Files are samples of an evaluation, rollouts of a run, or its pass_rates.jsonl, whose rows stand for many.

    Raises:
        MissingError: A file cannot be read.
        ConfigError: A row has no id or no score.
    """
    attempts: Counter[str] = Counter()
    solved: dict[str, float] = defaultdict(float)
    for path in paths:
        for place, row in read_objects(path):
            if "newest_pass_rate" in row:
                name, rate = to_rate(row, place)
                attempts[name] += rate.attempts
                solved[name] += rate.attempts * rate.mean
            else:
                score = read_score(row, place)
                if score is not None:
                    name = prompt_id(row, place)
                    attempts[name] += 1
                    solved[name] += score
    return {name: solved[name] / count for name, count in attempts.items()}
