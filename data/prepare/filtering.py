"""What a preparation did to the rows, step by step: how many came in, how many were dropped, and why."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from data.prepare.formats import Record
from openr1.console import print_table
from openr1.errors import ConfigError


@dataclass(frozen=True)
class Step:
    """One step; `dropped` counts rows by the reason why they were dropped."""

    name: str
    rows_in: int
    dropped: Mapping[str, int]

    @property
    def rows_out(self) -> int:
        """Rows that went on."""
        return self.rows_in - sum(self.dropped.values())

    def to_object(self) -> dict[str, object]:
        """For JSON."""
        dropped = dict(sorted(self.dropped.items()))
        return {"step": self.name, "rows_in": self.rows_in, "dropped": dropped, "rows_out": self.rows_out}


@dataclass
class Steps:
    """All steps so far."""

    done: list[Step] = field(default_factory=list)

    def note(self, name: str, rows_in: int, dropped: Mapping[str, int]) -> None:
        """Write down a step.

        Raises:
            ConfigError: It left no row.
        """
        step = Step(name, rows_in, {why: count for why, count in dropped.items() if count})
        self.done.append(step)
        if step.rows_out == 0:
            raise ConfigError(f"no row is left after the step {name!r}: of {rows_in} rows, dropped {_reasons(step)}")

    def sift(self, name: str, records: Sequence[Record], reason: Callable[[Record], str | None]) -> list[Record]:
        """Drop the records that there is a reason to drop; order is kept.

        Raises:
            ConfigError: None is left.
        """
        kept, dropped = [], Counter[str]()
        for record in records:
            why = reason(record)
            if why is None:
                kept.append(record)
            else:
                dropped[why] += 1
        self.note(name, len(records), dropped)
        return kept

    def show(self) -> None:
        """Print a table."""
        rows = [
            (step.name, str(step.rows_in), str(step.rows_in - step.rows_out), _reasons(step), str(step.rows_out))
            for step in self.done
        ]
        print_table("rows", ("step", "in", "dropped", "why", "out"), rows)


def _reasons(step: Step) -> str:
    return ", ".join(f"{count} {why}" for why, count in sorted(step.dropped.items()))
