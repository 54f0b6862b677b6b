"""How often each prompt is solved: a ledger that a run keeps, and by which it passes over what is solved already."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openr1.errors import ConfigError
from openr1.runtime.files import read_objects, write_objects
from openr1.types import ScoredGroup

PASS_RATE_FILE = "pass_rates.jsonl"
"""In the run folder, for people and for other runs; in a checkpoint, for resuming."""
COLUMNS = ("id", "attempts", "pass_rate", "newest_pass_rate")


@dataclass(frozen=True)
class PassRate:
    """Graded responses of one prompt, their mean score, and that of its newest visit; scores are in [0, 1]."""

    attempts: int
    mean: float
    newest: float


class PassRates:
    """The ledger, by prompt id."""

    def __init__(self) -> None:
        self._rates: dict[str, PassRate] = {}

    def newest(self, prompt_id: str) -> float | None:
        """Mean score of the newest visit; None before the first."""
        rate = self._rates.get(prompt_id)
        return None if rate is None else rate.newest

    def add(self, scored: ScoredGroup) -> None:
        """Add a visit of a prompt; ungraded responses do not count."""
        scores = [grade.score for grade in scored.grades if grade.score is not None]
        self._enter(scored.group.prompt.id, scores)

    def read(self, path: Path) -> None:
        """Take over what an earlier run's `pass_rates.jsonl` says.

        Raises:
            MissingError: The file cannot be read.
            ConfigError: A row has other columns.
        """
        for place, row in read_objects(path):
            name, rate = to_rate(row, place)
            self._rates[name] = rate

    def write(self, path: Path) -> None:
        """Write `pass_rates.jsonl`, one row a prompt that was visited."""
        rows = [(name, rate.attempts, rate.mean, rate.newest) for name, rate in self._rates.items()]
        write_objects(path, [dict(zip(COLUMNS, row, strict=True)) for row in rows])

    def _enter(self, prompt_id: str, scores: list[float]) -> None:
        if not scores:
            return
        past = self._rates.get(prompt_id, PassRate(0, 0.0, 0.0))
        attempts = past.attempts + len(scores)
        mean = (past.attempts * past.mean + sum(scores)) / attempts
        self._rates[prompt_id] = PassRate(attempts, mean, sum(scores) / len(scores))


def to_rate(row: dict[str, Any], place: str) -> tuple[str, PassRate]:
    """A prompt's id and rate, of a row of a pass_rates.jsonl.

    Raises:
        ConfigError: The row has other columns.
    """
    values = [row.get(name) for name in COLUMNS[1:]]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not isinstance(row.get("id"), str) or len(numbers) != len(values):
        raise ConfigError(f"{place}: not a row of a pass_rates.jsonl; it has {', '.join(COLUMNS)}")
    attempts, mean, newest = numbers
    return row["id"], PassRate(int(attempts), float(mean), float(newest))
