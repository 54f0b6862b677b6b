"""Writes the table of docs/reliability.md from what `make chaos` measured.

python -m benchmarks.chaos
"""

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.markdown import fill_table
from openr1.runtime.files import write_whole

RESULT = ROOT / "benchmarks/results/chaos.json"
PAGE = ROOT / "docs/reliability.md"


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row for each fault of the table, and one for all that were drawn."""
    drawn = [row for row in rows if "seed" in row]
    cells = [
        ["none" if row["fault"] is None else f"`{row['fault']}`", str(row["code"]), f"{row['seconds']:.0f}"]
        for row in rows
        if "seed" not in row
    ]
    if drawn:
        codes = sorted({row["code"] for row in drawn})
        seconds = [row["seconds"] for row in drawn]
        cells.append(
            [
                f"{len(drawn)} random ones",
                ", ".join(f"{code} ({sum(row['code'] == code for row in drawn)})" for code in codes),
                f"{min(seconds):.0f} to {max(seconds):.0f}",
            ]
        )
    return [["fault", "exit code", "seconds"], *cells]


def main() -> int:
    """Fill the table."""
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    write_whole(PAGE, fill_table(PAGE.read_text(encoding="utf-8"), "chaos", table(rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
