"""The code stays small enough to be read: limits of docs/decisions/0008-size-of-the-package.md."""

import ast
from pathlib import Path

import pytest

from tests.running import ROOT

SOURCES = [path for name in ("openr1", "cli", "reward_server", "eval", "data") for path in (ROOT / name).rglob("*.py")]
LINES_OF_CODE, LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 4800, 400, 60


def lines_of_code(text: str) -> int:
    """Lines that are no docstring, no comment and not blank."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    numbered = enumerate(text.splitlines(), 1)
    return sum(number not in docstrings and line.strip()[:1] not in ("", "#") for number, line in numbered)


def test_lines_of_code_by_hand() -> None:
    """Catches a count that takes docstrings for code, or code for docstrings."""
    text = '"""One.\n\nTwo."""\n\nX = """\ncode\n"""\n"""Of X."""\n# why\ndef f():\n    """Doc."""\n    return "a"\n'
    assert lines_of_code(text) == 5


def test_the_library_is_small() -> None:
    """Catches growth that nobody decided on."""
    assert sum(lines_of_code(path.read_text()) for path in (ROOT / "openr1").rglob("*.py")) <= LINES_OF_CODE


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    """Catches a file of many nouns, and a function that does more than one thing."""
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_OF_A_FILE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= LINES_OF_A_FUNCTION]
    assert long == []
