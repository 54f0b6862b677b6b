"""OPENR1_FAULT: what it means, where it is refused, and that its points exist."""

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openr1.errors import ConfigError
from openr1.runtime import faults
from openr1.runtime.faults import POINTS, VARIABLE, Faults, parse_faults
from tests.running import ROOT


def prepared(monkeypatch: pytest.MonkeyPatch, text: str, name: str, is_replacement: bool = False) -> Faults:
    """The faults of a process."""
    monkeypatch.setenv(VARIABLE, text)
    one = Faults()
    one.prepare(name, is_replacement)
    return one


def failures(one: Faults, point: str, count: int) -> list[int]:
    """At which of `count` passings of a point an error is raised."""
    failed = []
    for number in range(1, count + 1):
        try:
            one.at(point)
        except RuntimeError:
            failed.append(number)
    return failed


def test_the_nth_passing_fails_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a fault that hits at once, at every passing, at another point or in another process."""
    text = "engine_1/group:raise:3, policy/save:raise:2"
    one = prepared(monkeypatch, text, "engine_1")
    assert failures(one, "load", 5) == []
    assert failures(one, "group", 5) == [3]
    assert failures(prepared(monkeypatch, text, "engine_0"), "group", 5) == []
    assert failures(prepared(monkeypatch, text, "engine_11"), "group", 5) == []
    assert failures(prepared(monkeypatch, text, "policy_7"), "save", 5) == [2]
    assert failures(prepared(monkeypatch, text, "driver"), "save", 5) == []


def test_a_process_that_replaces_another_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a restart that dies of the same fault again, and a crash loop that ends by itself."""
    assert failures(prepared(monkeypatch, "engine/group:raise:1", "engine_0", is_replacement=True), "group", 3) == []
    assert failures(prepared(monkeypatch, "engine/group:raise:2+", "engine_0", is_replacement=True), "group", 4) == [
        2,
        3,
        4,
    ]


def test_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an action that does something else; those that end a process are tried in one of its own."""
    slept: list[float] = []
    monkeypatch.setattr(faults.time, "sleep", slept.append)
    prepared(monkeypatch, "reference/log_probs:delay:1", "reference_0").at("log_probs")
    assert slept == [faults.DELAY_SECONDS]
    with pytest.raises(OSError, match="No space left") as caught:
        prepared(monkeypatch, "driver/record:full:1", "driver").at("record")
    assert caught.value.errno == errno.ENOSPC
    one = prepared(monkeypatch, "engine/group:short:2", "engine_0")
    assert [one.at("group") for _ in range(3)] == [False, True, False]
    program = "from openr1.runtime.faults import FAULTS; FAULTS.prepare('driver'); FAULTS.at('update'); print('lives')"
    for action, code in (("kill", -9), ("term", -15)):
        environment = os.environ | {VARIABLE: f"driver/update:{action}:1"}
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False
        )
        assert (ended.returncode, ended.stdout) == (code, b"")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("engine_0/group", "not of the form"),
        ("engine_0/group:kill:0", "not of the form"),
        ("egine/group:kill:1", "unknown role 'egine'; there are critic, driver, engine, policy, reference"),
        ("engine/save:kill:1", "unknown point 'save'"),
        ("engine/group:explode:1", "unknown action 'explode'"),
        ("engine/load:short:1", "engine/group only"),
        ("engine/group:kill:1,", "not of the form"),
    ],
)
def test_what_does_not_exist_is_refused(text: str, told: str) -> None:
    """Catches a misspelled fault that never happens, and a test of recovery that is green for it."""
    with pytest.raises(ConfigError, match=told):
        parse_faults(text)


def test_every_point_is_passed_somewhere() -> None:
    """Catches a point that is in the list and not in the code, or the reverse."""
    passed = set()
    for path in Path(ROOT, "openr1").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "FAULTS.at":
                passed.add(ast.literal_eval(node.args[0]))
    assert passed == {point for points in POINTS.values() for point in points}
