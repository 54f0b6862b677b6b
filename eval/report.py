"""Results for people: a table, and a page in Markdown."""

from collections.abc import Callable, Mapping, Sequence

from eval.result import Result


def table(results: Mapping[str, Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a column a benchmark, a row a figure."""
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


def to_markdown(title: str, settings: Mapping[str, object], results: Mapping[str, Result]) -> str:
    """The page: settings, the table, and how samples ended (by verdict)."""
    lines = [f"# {title}", "", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {_plain(value)} |" for name, value in settings.items()]
    header, rows = table(results)
    verdicts = sorted({verdict for result in results.values() for verdict in result.verdicts})
    counts = [[verdict, *(str(result.verdicts.get(verdict, 0)) for result in results.values())] for verdict in verdicts]
    for body in (rows, counts):
        lines += ["", _row(header), "|---" * len(header) + "|", *map(_row, body)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
