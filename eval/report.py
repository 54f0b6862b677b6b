"""Human-readable results: tables, and a Markdown report of them."""

from collections.abc import Callable, Mapping, Sequence

from eval.result import Result
from reward_server.printable import printable

Table = tuple[list[str], list[list[str]]]
"""Header, and rows with the same number of cells."""


def table(results: Mapping[str, Result]) -> Table:
    """Table of metrics: one column per benchmark, one row per metric."""
    size = next(iter(results.values())).n_samples_per_prompt
    figures: dict[str, Callable[[Result], str]] = {
        "problems": lambda one: str(one.num_problems),
        "accuracy": lambda one: f"{one.accuracy:.3f}",
        "95 % interval": lambda one: f"{one.ci95[0]:.3f}, {one.ci95[1]:.3f}",
        f"pass@{size}": lambda one: f"{one.pass_at[size]:.3f}",
        f"maj@{size}": lambda one: f"{one.maj[size]:.3f}",
        "tokens": lambda one: f"{one.response_length:.1f}",
        "truncated": lambda one: f"{one.truncated_fraction:.1%}",
        "not graded": lambda one: str(one.num_failed),
    }
    rows = [[name, *(show(result) for result in results.values())] for name, show in figures.items()]
    return ["", *results], rows


def verdict_table(results: Mapping[str, Result]) -> Table:
    """Table of verdict counts: one column per benchmark, one row per verdict."""
    verdicts = sorted({verdict for result in results.values() for verdict in result.verdicts})
    rows = [[verdict, *(str(result.verdicts.get(verdict, 0)) for result in results.values())] for verdict in verdicts]
    return ["", *results], rows


def settings_table(settings: Mapping[str, object]) -> Table:
    """Table of settings: one row per setting."""
    return ["setting", "value"], [[name, str(value)] for name, value in settings.items()]


def to_markdown(title: str, settings: Mapping[str, object], results: Mapping[str, Result]) -> str:
    """The Markdown report: settings, metrics and verdicts."""
    tables = (settings_table(settings), table(results), verdict_table(results))
    return "\n".join([f"# {title}", *("\n" + markdown_table(*one) for one in tables)]) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table, without a trailing line break. In cells, bars are escaped and line breaks removed."""
    return "\n".join([_row(header), "|---" * len(header) + "|", *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
