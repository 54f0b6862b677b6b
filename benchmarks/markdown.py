"""Generated tables inside hand-written Markdown pages."""

from collections.abc import Sequence

from openr1.errors import ConfigError


def fill_table(text: str, name: str, table: Sequence[Sequence[str]]) -> str:
    """Replace the table between `<!-- NAME -->` and `<!-- end of NAME -->`.

    Args:
        text: The page.
        name: Name of the table.
        table: Rows of cells; the first row is the header.

    Raises:
        ConfigError: The page does not have both comments.
    """
    before, start, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not start or not end:
        raise ConfigError(f"the page has no marks for `{name}`")
    lines = [f"| {' | '.join(row)} |" for row in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    return before + start + "\n".join(lines) + "\n" + end + after
