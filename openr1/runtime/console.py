"""Terminal output: single lines, progress bars (on a terminal only), and tables."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from reward_server.printable import printable

console = Console(highlight=False, soft_wrap=True)


class Advance(Protocol):
    """Moves a progress bar by one."""

    def __call__(self, note: str = "") -> None:
        """`note` is shown at the end of the bar."""


def say(text: str) -> None:
    """Print one line. It may hold text of models or files: Rich markup is off, control characters are spelled out."""
    console.print(printable(text), markup=False)


@functools.cache
def say_once(text: str) -> None:
    """Print one line the first time that this process has it to say."""
    say(text)


def ignore(note: str = "") -> None:
    """An `Advance` that shows nothing."""


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show a progress bar over `total` items, of which `done` are complete; silent if the output is not a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=total, completed=done, note="")

        def advance(note: str = "") -> None:
            bars.update(task, advance=1, note=printable(note))

        yield advance


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a small table. Rich markup is on; control characters are spelled out."""
    table = Table(*map(printable, header), title=printable(title), title_justify="left")
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)
