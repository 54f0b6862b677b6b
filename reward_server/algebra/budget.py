"""How much work one comparison may take: it runs in the serving process, where nothing can interrupt it.

Work is counted and not timed, so that equal comparisons always give equal results.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UNITS = 40_000
"""Work that one comparison may take; a unit is about a microsecond."""


class OverBudget(Exception):
    """A comparison takes too much work to be decided here; it stays open."""


class _Work(threading.local):
    left: int | None = None
    memo: dict[tuple[str, int], tuple[Any, Any]] | None = None


_work = _Work()


@contextmanager
def limited(units: int | None = None) -> Iterator[None]:
    """Limit the work of the block, and keep results for it; within another limit, that one goes on to hold."""
    if _work.left is not None:
        yield
        return
    _work.left, _work.memo = UNITS if units is None else units, {}
    try:
        yield
    finally:
        _work.left = _work.memo = None


def spend(units: int) -> None:
    """Count work.

    Raises:
        OverBudget: The comparison has taken too much.
    """
    if _work.left is not None:
        _work.left -= units
        if _work.left < 0:
            raise OverBudget


def remembered(kind: str, node: Any) -> Any | None:
    """What was kept for an object in this comparison; None if nothing was."""
    found = _work.memo.get((kind, id(node))) if _work.memo is not None else None
    return None if found is None else found[1]


def remember(kind: str, node: Any, result: Any) -> None:
    """Keep a result for an object until the comparison ends; keeps the object, too, so that its id stays its own."""
    if _work.memo is not None:
        _work.memo[kind, id(node)] = (node, result)
