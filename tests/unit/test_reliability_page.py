"""docs/reliability.md names tests that exist, and leaves no fault out."""

import ast
import json
import re
from pathlib import Path

import pytest

from benchmarks import chaos
from benchmarks.markdown import fill_table
from tests.running import ROOT

PAGE = ROOT / "docs/reliability.md"
ROW = re.compile(r"^\| (\d+) \| (.*) \|$", re.MULTILINE)
NAMED_TEST = re.compile(r"`([\w./]+\.py)::(\w+)`")
NUM_FAULTS = 74


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
    assert named, f"row {number} names no test"
    assert row.count("::") == len(named), f"row {number} names a test in another form than `path::name`"
    assert [f"{path}::{name}" for path, name in named if not is_test(ROOT, path, name)] == []


def test_measured_seconds_are_those_that_are_kept() -> None:
    """Catches a table that was edited by hand, or is of other measurements than the result file."""
    rows = json.loads(chaos.RESULT.read_text(encoding="utf-8"))["rows"]
    page = PAGE.read_text(encoding="utf-8")
    assert fill_table(page, "chaos", chaos.table(rows)) == page, "run: python -m benchmarks.chaos"


def test_drawn_faults_are_counted_by_their_end() -> None:
    """Catches a run that was killed and counts as one that was absorbed."""
    rows = [{"fault": None, "code": 0, "seconds": 30.4}, {"fault": "a/b:kill:1", "code": 4, "seconds": 9.6}]
    rows += [{"seed": seed, "fault": "x", "code": code, "seconds": 20.0 + seed} for seed, code in enumerate([0, -9, 0])]
    assert chaos.table(rows)[1:] == [
        ["none", "0", "30"],
        ["`a/b:kill:1`", "4", "10"],
        ["3 random ones", "-9 (1), 0 (2)", "20 to 22"],
    ]
