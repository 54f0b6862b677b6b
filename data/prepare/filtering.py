"""Row filters, and a report of how many rows each preparation stage received and dropped, and why."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from data.prepare.formats import SourceRow
from openr1.errors import ConfigError
from openr1.runtime.console import print_table


@dataclass(frozen=True)
class FilterStage:
    """Result of one stage; `dropped` maps a reason to the number of rows dropped for it."""

    name: str
    rows_in: int
    dropped: Mapping[str, int]

    @property
    def rows_out(self) -> int:
        """Number of rows kept."""
        return self.rows_in - sum(self.dropped.values())

    def to_object(self) -> dict[str, object]:
        """Return the entry of this stage in prepare.json."""
        dropped = dict(sorted(self.dropped.items()))
        return {"step": self.name, "rows_in": self.rows_in, "dropped": dropped, "rows_out": self.rows_out}


@dataclass
class FilterReport:
    """The stages that have run so far, in order."""

    stages: list[FilterStage] = field(default_factory=list)

    def record(self, name: str, rows_in: int, dropped: Mapping[str, int]) -> None:
        """Add a stage; reasons with a count of 0 are omitted.

        Raises:
            ConfigError: The stage kept no rows.
        """
        stage = FilterStage(name, rows_in, {reason: count for reason, count in dropped.items() if count})
        self.stages.append(stage)
        if stage.rows_out == 0:
            raise ConfigError(
                f"no rows are left after step {name!r}: {rows_in} rows in, dropped {_describe_dropped(stage)}"
            )

    def filter(
        self, name: str, rows: Sequence[SourceRow], drop_reason: Callable[[SourceRow], str | None]
    ) -> list[SourceRow]:
        """Return the rows for which `drop_reason` is None, in order, and record the stage.

        Raises:
            ConfigError: No row is kept.
        """
        kept, dropped = [], Counter[str]()
        for row in rows:
            reason = drop_reason(row)
            if reason is None:
                kept.append(row)
            else:
                dropped[reason] += 1
        self.record(name, len(rows), dropped)
        return kept

    def show(self) -> None:
        """Print the stages as a table."""
        table = [
            (
                stage.name,
                str(stage.rows_in),
                str(stage.rows_in - stage.rows_out),
                _describe_dropped(stage),
                str(stage.rows_out),
            )
            for stage in self.stages
        ]
        print_table("rows", ("step", "in", "dropped", "why", "out"), table)


def _describe_dropped(stage: FilterStage) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(stage.dropped.items()))
