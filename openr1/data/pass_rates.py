"""Pass rate of each training prompt. A run records it, and can skip prompts that the policy already solves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError
from openr1.runtime.files import read_objects, write_objects
from openr1.types import ScoredGroup

PASS_RATE_FILE = "pass_rates.jsonl"
"""File name, both in the run folder (for people and other runs) and in checkpoints (for resuming)."""
COLUMNS = ("id", "attempts", "pass_rate", "newest_pass_rate")


@dataclass(frozen=True)
class PassRate:
    """Statistics of one prompt's graded responses.

    Attributes:
        attempts: Number of graded responses, over all visits.
        mean: Mean score of all of them, in [0, 1].
        newest: Mean score of the most recent visit, in [0, 1].
    """

    attempts: int
    mean: float
    newest: float


class PassRates:
    """Pass rates by prompt id."""

    def __init__(self) -> None:
        self._rates: dict[str, PassRate] = {}

    def newest(self, prompt_id: str) -> float | None:
        """Mean score of the most recent visit; None if the prompt was never visited."""
        rate = self._rates.get(prompt_id)
        return None if rate is None else rate.newest

    def add(self, scored: ScoredGroup) -> None:
        """Record one visit of a prompt. Ungraded responses are ignored."""
        scores = [grade.score for grade in scored.grades if grade.score is not None]
        self._update(scored.group.prompt.id, scores)

    def read(self, path: Path) -> None:
        """Load the `pass_rates.jsonl` of an earlier run; its entries replace existing ones of the same id.

        Raises:
            MissingError: The file cannot be read.
            ConfigError: A row has missing columns or wrong types.
        """
        for location, row in read_objects(path):
            name, rate = to_rate(row, location)
            self._rates[name] = rate

    def write(self, path: Path) -> None:
        """Write `pass_rates.jsonl`, one row per visited prompt."""
        rows = [(name, rate.attempts, rate.mean, rate.newest) for name, rate in self._rates.items()]
        write_objects(path, [dict(zip(COLUMNS, row, strict=True)) for row in rows])

    def _update(self, prompt_id: str, scores: list[float]) -> None:
        if not scores:
            return
        past = self._rates.get(prompt_id, PassRate(0, 0.0, 0.0))
        attempts = past.attempts + len(scores)
        mean = (past.attempts * past.mean + sum(scores)) / attempts
        self._rates[prompt_id] = PassRate(attempts, mean, sum(scores) / len(scores))


def to_rate(row: dict[str, Any], location: str) -> tuple[str, PassRate]:
    """Parse one row of pass_rates.jsonl into a prompt id and its rate.

    Raises:
        ConfigError: A column is missing or has the wrong type.
    """
    values = [row.get(name) for name in COLUMNS[1:]]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not isinstance(row.get("id"), str) or len(numbers) != len(values):
        raise ConfigError(f"{location}: not a row of a pass_rates.jsonl; the columns are {', '.join(COLUMNS)}")
    attempts, mean, newest = numbers
    return row["id"], PassRate(int(attempts), float(mean), float(newest))
