"""Durations and deadlines are measured by a clock that nobody can set."""

import ast

from tests.running import ROOT
from tests.unit.test_size import SOURCES

WALL_CLOCKS = {
    "time.time",
    "time.time_ns",
    "time.ctime",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
}
DATES = {
    "openr1/tracking/loggers/backends.py": "the time at which TensorBoard shows a point",
    "openr1/workers/deepspeed/build_locks.py": "the age of a file, whose time is of the same clock",
}
"""Where a date is meant."""


def wall_clocks(source: str) -> set[str]:
    """Names of the clocks of dates that a module reads."""
    names = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return {clock for clock in WALL_CLOCKS if any(name == clock or name.endswith(f".{clock}") for name in names)}


def test_wall_clocks_are_found() -> None:
    """Catches a search that finds nothing, with which the test below would pass on any code."""
    assert wall_clocks("deadline = time.time() + 5") == {"time.time"}
    assert wall_clocks("now = datetime.datetime.now()") == {"datetime.now"}
    assert wall_clocks("time.monotonic(); time.timeout(3)") == set()


def test_deadlines_do_not_depend_on_the_date() -> None:
    """Catches engines, servers and files that are given up, or awaited for ever, since the clock was set."""
    found = {str(path.relative_to(ROOT)): wall_clocks(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path for path, clocks in found.items() if clocks} == set(DATES)
