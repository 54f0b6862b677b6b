"""Grading against real cases and real golds, where OPENR1_DATA_DIR has them."""

import json
import os
import re
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.schema import FAILED_VERDICTS, ScoreItem
from reward_server.tasks import find_task
from reward_server.tasks.math import parse_label
from reward_server.tasks.task import Comparison
from tests.unit.reward_server.comparisons import is_equal

DATA = Path(os.environ.get("OPENR1_DATA_DIR", "no-data"))
pytestmark = pytest.mark.skipif(not (DATA / "grader").is_dir(), reason="OPENR1_DATA_DIR has no grader cases")

FILES = [
    "benchmarks/AMC23.jsonl",
    "benchmarks/GSM8k.jsonl",
    "benchmarks/MATH500.jsonl",
    "benchmarks/OlympiadBench.jsonl",
    "train/math3k_cot.jsonl",
    "train/math3k_rl_prompt.jsonl",
]
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(ServerConfig(workers=2)) as one:
        yield one


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def golds(name: str) -> list[str]:
    """All different labels of a file, in order."""
    return sorted({parse_label(str(row["answer"])) for row in read(name)})


def numbers(text: str) -> list[Fraction]:
    """The numbers in a text but for group separators and the powers of units, in order of size."""
    plain = re.sub(r",(?:\\!)?\s*(?=\d{3})|(?<=cm})\^2", "", text)
    return sorted(Fraction(found) for found in NUMBER.findall(plain))


def test_cases(grader: Grader) -> None:
    """Catches a change of the grader that breaks with what public test suites agree on.

    The cases that are known to be graded otherwise are listed in docs/grading.md; there may be no more of them.
    """
    agreed: dict[str, list[bool]] = {}
    for task, rows in by_task(read("grader/cases.jsonl")).items():
        items = [ScoreItem(id=str(n), response=response, label=row["gold"]) for n, (row, response) in enumerate(rows)]
        for (row, _), (score, _) in zip(rows, grader.grade(find_task(task), items), strict=True):
            agreed.setdefault(row["tier"], []).append((score.verdict == "correct") == row["expected"])
    assert len(agreed["core"]) > 250
    assert agreed["core"].count(False) <= 4
    assert agreed["core-hard"].count(False) <= 3


def test_respellings(grader: Grader) -> None:
    """Catches a rule that is lost: answers in other spellings, and answers that lack or change a part of the gold."""
    rows = read("grader/respellings.jsonl")
    wrong, lost = 0, []
    for name in ("math", "math_any"):
        chosen = [row for row in rows if row["task"] == name]
        items = [ScoreItem(id=str(n), response=row["response"], label=row["label"]) for n, row in enumerate(chosen)]
        for row, (score, _) in zip(chosen, grader.grade(find_task(name), items), strict=True):
            wrong += score.verdict != row["expected"]
            lost += [row] if score.verdict != row["expected"] and row["today"] == "as expected" else []
    assert lost == []
    assert wrong <= len(rows) * 0.03


def by_task(rows: list[dict[str, Any]]) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Rows and responses: bare answers put into a box, boxes as they are, other text to math_any."""
    tasks: dict[str, list[tuple[dict[str, Any], str]]] = {"math": [], "math_any": []}
    for row in rows:
        if r"\boxed" in row["pred"]:
            tasks["math"].append((row, row["pred"]))
        elif row["kind"] == "answer":
            tasks["math"].append((row, rf"\boxed{{{row['pred']}}}"))
        else:
            tasks["math_any"].append((row, row["pred"]))
    return tasks


@pytest.mark.parametrize("name", FILES)
def test_every_gold_equals_itself(name: str, grader: Grader) -> None:
    """Catches labels that no answer could match: through the whole task, and by the parser alone."""
    labels = golds(name)
    items = [ScoreItem(id=str(n), response=rf"\boxed{{{gold}}}", label=gold) for n, gold in enumerate(labels)]
    graded = grader.grade(find_task("math"), items)
    assert [gold for gold, (score, _) in zip(labels, graded, strict=True) if score.verdict != "correct"] == []
    comparisons = {Comparison(gold, gold) for gold in labels}
    answers = grader.compare_all(comparisons, time.monotonic() + 300)
    assert [comparison.gold for comparison in comparisons if answers[comparison].outcome is not True] == []


@pytest.mark.parametrize("name", FILES)
def test_no_gold_equals_the_next(name: str, grader: Grader) -> None:
    """Catches a grader that is too kind, by the parser alone.

    The only pairs that may be equal have the same numbers: they differ by a unit (which is not read), by the spelling
    of one number, or by the order of a list.
    """
    labels = golds(name)
    comparisons = [Comparison(*pair) for pair in pairwise(labels)]
    answers = grader.compare_all(set(comparisons), time.monotonic() + 300)
    equal = [comparison for comparison in comparisons if is_equal(answers[comparison].outcome) is not False]
    assert [comparison for comparison in equal if numbers(comparison.answer) != numbers(comparison.gold)] == []
    assert len(equal) <= len(comparisons) // 50


@pytest.mark.parametrize("task", ["math", "math_any"])
def test_adversarial_answers(task: str, grader: Grader) -> None:
    """Catches a forged or huge answer that gets past the limits and the clock, or costs a worker for good."""
    rows = read("grader/adversarial.jsonl")
    start = time.monotonic()
    items = [ScoreItem(id=row["name"], response=row["pred"], label=row["gold"]) for row in rows]
    graded = {one.id: score for one, (score, _) in zip(items, grader.grade(find_task(task), items), strict=True)}
    assert time.monotonic() - start < 60
    assert [name for name, score in graded.items() if score.verdict in FAILED_VERDICTS] == []
    forged = ("two_boxes_and", "two_boxes_right_wrong", "or_box", "echo_gold_late", "inf", "tiny", "e_plus", "eq_rhs")
    assert [name for name in forged if graded[name].verdict == "correct"] == []
    assert grader.self_test() is None
