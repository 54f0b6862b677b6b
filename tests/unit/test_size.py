"""The code stays small enough to be read: limits of docs/decisions/0008-size-of-the-package.md."""

import ast
from pathlib import Path

import pytest

from tests.running import ROOT

SOURCES = [path for name in ("openr1", "cli", "reward_server", "eval", "data") for path in (ROOT / name).rglob("*.py")]
CODE_LINES_OF_A_SUBPACKAGE, LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 1500, 400, 60


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


def subpackage_of(path: Path) -> str:
    """The subpackage of a file with its nested folders, `openr1/tracking`; `openr1` for a package's own modules."""
    return "/".join(path.parent.relative_to(ROOT).parts[:2])


def test_lines_of_code_by_hand() -> None:
    """Catches a count that takes docstrings for code, or code for docstrings."""
    text = '"""One.\n\nTwo."""\n\nX = """\ncode\n"""\n"""Of X."""\n# why\ndef f():\n    """Doc."""\n    return "a"\n'
    assert lines_of_code(text) == 5


def test_files_count_for_their_subpackage() -> None:
    """Catches a nested folder that is counted by itself, and so hides code from the limit."""
    assert subpackage_of(ROOT / "openr1/types.py") == "openr1"
    assert subpackage_of(ROOT / "openr1/tracking/recorder.py") == "openr1/tracking"
    assert subpackage_of(ROOT / "openr1/tracking/loggers/client.py") == "openr1/tracking"


@pytest.mark.parametrize("subpackage", sorted({subpackage_of(path) for path in SOURCES}))
def test_subpackages_are_small(subpackage: str) -> None:
    """Catches a subpackage that has taken on a second task, and is too much to read at once."""
    sizes = [lines_of_code(path.read_text()) for path in SOURCES if subpackage_of(path) == subpackage]
    assert sum(sizes) <= CODE_LINES_OF_A_SUBPACKAGE


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    """Catches a file with many unrelated parts, and a function that does more than one thing."""
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_OF_A_FILE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= LINES_OF_A_FUNCTION]
    assert long == []
