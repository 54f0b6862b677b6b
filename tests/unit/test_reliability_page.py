"""docs/reliability.md names tests that exist, and leaves no fault out."""

import ast
import re
from pathlib import Path

import pytest

from tests.running import ROOT

PAGE = ROOT / "docs/reliability.md"
ROW = re.compile(r"^\| (\d+) \| (.*) \|$", re.MULTILINE)
NAMED_TEST = re.compile(r"`([\w./]+\.py)::(\w+)`")
NUM_FAULTS = 74
UNTESTED: set[int] = set()
"""Rows that say so."""


def is_test(root: Path, path: str, name: str) -> bool:
    """Whether a file has a test of this name."""
    if not (root / path).is_file() or not name.startswith("test_"):
        return False
    module = ast.parse((root / path).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in module.body)


def test_missing_tests_are_noticed(tmp_path: Path) -> None:
    """Catches a search that finds a test in any file, with which the test below would pass on any page."""
    (tmp_path / "a.py").write_text("def test_one(): ...\ndef helper(): ...\nclass C:\n    def test_two(self): ...\n")
    named = NAMED_TEST.findall("`a.py::test_one`, `a.py::helper`, `a.py::test_two`, `b.py::test_one`, a.py::test_one")
    assert [is_test(tmp_path, *one) for one in named] == [True, False, False, False]


def test_all_faults_are_there() -> None:
    """Catches a row that is lost, stands twice, or lacks a column."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert [int(number) for number, _ in rows] == list(range(1, NUM_FAULTS + 1))
    assert {rest.count(" | ") for _, rest in rows} == {3}


@pytest.mark.parametrize(("number", "row"), ROW.findall(PAGE.read_text(encoding="utf-8")))
def test_tests_of_a_fault_exist(number: str, row: str) -> None:
    """Catches a promise whose test was renamed, moved or never written."""
    named = NAMED_TEST.findall(row)
    assert bool(named) != (int(number) in UNTESTED), f"row {number} names no test, or is listed as untested"
    assert row.count("::") == len(named), f"row {number} names a test in another form than `path::name`"
    assert [f"{path}::{name}" for path, name in named if not is_test(ROOT, path, name)] == []
