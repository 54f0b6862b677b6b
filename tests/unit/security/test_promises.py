"""SECURITY.md names a test for each promise."""

import ast
import re

from tests.running import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def promises() -> dict[str, list[tuple[str, str]]]:
    """File and name of the tests of each promise."""
    table = PAGE.split("| promise | tests |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()]
    return {promise.strip(): TEST.findall(tests) for promise, tests in rows}


def test_every_promise_has_a_test() -> None:
    """Catches a promise that nothing holds us to, and a test that is written in a way that is not checked below."""
    assert len(promises()) > 20
    assert [promise for promise, tests in promises().items() if not tests] == []
    assert sum(map(len, promises().values())) == PAGE.count("::test_")


def test_every_test_that_is_named_exists() -> None:
    """Catches a test that was renamed or removed, and took a promise with it."""
    for file, name in {test for tests in promises().values() for test in tests}:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"
