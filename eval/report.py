"""Results for people: rows of a table, and a page in Markdown."""

from collections.abc import Mapping

from eval.result import Result

HEADER = ("benchmark", "problems", "accuracy (95 % interval)", "pass@k", "maj@k", "tokens", "truncated", "not graded")


def table_rows(results: Mapping[str, Result]) -> list[list[str]]:
    """One row a benchmark."""
    return [
        [
            name,
            str(result.num_problems),
            f"{result.accuracy:.3f} [{result.ci95[0]:.3f}, {result.ci95[1]:.3f}]",
            f"{result.pass_at[result.n_samples_per_prompt]:.3f} (k={result.n_samples_per_prompt})",
            f"{result.maj[result.n_samples_per_prompt]:.3f} (k={result.n_samples_per_prompt})",
            f"{result.response_length:.1f}",
            f"{result.truncated_fraction:.1%}",
            str(result.num_failed),
        ]
        for name, result in results.items()
    ]


def to_markdown(title: str, settings: Mapping[str, object], results: Mapping[str, Result]) -> str:
    """The page: settings, the table, and how samples ended."""
    lines = [f"# {title}", "", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {_plain(value)} |" for name, value in settings.items()]
    lines += ["", "| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(results)]
    verdicts = sorted({verdict for result in results.values() for verdict in result.verdicts})
    lines += [
        "",
        "Samples by verdict:",
        "",
        "| benchmark | " + " | ".join(verdicts) + " |",
        "|---" * (len(verdicts) + 1) + "|",
    ]
    for name, result in results.items():
        counts = " | ".join(str(result.verdicts.get(verdict, 0)) for verdict in verdicts)
        lines.append(f"| {name} | {counts} |")
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
