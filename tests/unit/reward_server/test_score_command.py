"""`score` and `grade-audit` as a user runs them: the server's objects, and one line for bad input."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


def run(*words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli", *words]
    return subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, timeout=120, check=False)


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("response", "given"), [(r"It is \boxed{\frac{1}{\sqrt{4}}}.", ""), ("-", r"\boxed{1/2}")])
def test_one_response(response: str, given: str) -> None:
    """Catches a command that grades otherwise than the server, or cannot read what a shell pipes in."""
    done = run("score", "--task", "math", "--label", "0.5", "--response", response, given=given)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["verdict"], result["reward"], result["error"]) == ("correct", 1.0, None)
    assert result.keys() == {"id", "reward", "score", "components", "extracted", "verdict", "error", "reason", "ms"}


def test_prefix_and_finish_reason_are_used() -> None:
    """Catches flags that are accepted and dropped."""
    label = '{"numbers": [3, 5, 7], "target": 22}'
    response = "15 and 7</think>\n<answer>3*5+7</answer>"
    words = ["score", "--task", "countdown", "--label", label, "--response"]
    assert json.loads(run(*words, response, "--prefix", "<think>").stdout)["reward"] == 1.1
    assert json.loads(run(*words, response).stdout)["reward"] == 1.0
    assert json.loads(run(*words, "hm", "--finish-reason", "length").stdout)["verdict"] == "truncated"


def test_a_file_is_graded_again(tmp_path: Path) -> None:
    """Catches rows out of order, tasks of rows mixed up, a changed reward that goes unnoticed, and compressed rollouts
    taken for text."""
    rows = write_rows(
        tmp_path / "rollouts.jsonl",
        {"id": "p/0", "task": "math", "response": r"\boxed{4}", "label": 4, "reward": 1.0, "num_tokens": 3},
        {"id": "p/1", "task": "gsm8k_zh", "response": "<answer>5</answer>", "label": "5", "reward": 9.0},
        {"response": r"\boxed{3}", "label": "4"},
    )
    rows.with_suffix(".jsonl.gz").write_bytes(gzip.compress(rows.read_bytes()))
    done = run("score", "--file", str(rows.with_suffix(".jsonl.gz")))
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["id"], one["verdict"]) for one in results] == [("p/0", "correct"), ("p/1", "correct"), ("3", "wrong")]
    # gsm8k_zh: digits 0.5 and correctness 2.0; no other mark of its layout is there.
    assert results[1]["reward"] == 2.5
    assert done.stderr == "score: 3 rows: 2 correct, 1 wrong; 1 with another reward\n"


def test_weights_of_a_file_are_used(tmp_path: Path) -> None:
    """Catches a configuration that the server would use and this command does not."""
    config = tmp_path / "server.yaml"
    config.write_text("tasks: {math: {weights: {accuracy: 3.0}}}\n")
    done = run("score", "--label", "4", "--response", r"\boxed{4}", "--config", str(config))
    assert json.loads(done.stdout)["reward"] == 3.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score"], "give --label and --response, or --file"),
        (["score", "--label", "4"], "give --label and --response, or --file"),
        (["score", "--label", "4", "--response", "4", "--task", "maths"], "score: unknown task 'maths'; known tasks: "),
        (["score", "--file", "BAD"], "bad.jsonl:2: not JSON: "),
        (["score", "--file", "SHORT"], "short.jsonl:1: a row needs response and label"),
        (["grade-audit", "BAD"], "bad.jsonl:2: not JSON: "),
        (["grade-audit", "SHORT"], "short.jsonl:1: no label or answer"),
        (["grade-audit", "SHORT", "--task", "maths"], "grade-audit: unknown task 'maths'"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    """Catches a traceback, or a wrong exit code, for what a user may well type."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"response": "4", "label": "4"}\n{"resp\n')
    short = write_rows(tmp_path / "short.jsonl", {"response": 4})
    files = {"BAD": str(bad), "SHORT": str(short)}
    done = run(*(files.get(word, word) for word in words))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_one_line() -> None:
    """Catches a traceback, and the exit code of bad usage for what is missing."""
    done = run("score", "--file", "/nowhere.jsonl")
    assert done.returncode == 3
    assert done.stderr.startswith("score: /nowhere.jsonl: No such file or directory")


def test_audit_names_labels_that_cannot_be_graded(tmp_path: Path) -> None:
    """Catches an audit that trusts equal texts, misses a blank label, or says all is well when it is not."""
    rows = [{"answer": r"\frac{1}{2}"}, {"label": "$$"}, {"answer": "some text\n#### 18"}, {"label": " "}]
    done = run("grade-audit", str(write_rows(tmp_path / "labels.jsonl", *rows)))
    assert done.returncode == 1
    first, second, summary = done.stdout.splitlines()
    assert "labels.jsonl:2: '$$' cannot be parsed: the gold '$$' holds no answer" in first
    assert "labels.jsonl:4: ' ' cannot be parsed: the label is blank" in second
    assert summary == "4 labels, 2 that cannot be graded"
    assert run("grade-audit", str(write_rows(tmp_path / "good.jsonl", *rows[::2]))).returncode == 0


def test_audit_reads_labels_as_the_rows_tasks_do(tmp_path: Path) -> None:
    """Catches labels of one task that pass as those of another, and an audit of nothing that is green."""
    bad = {"label": "24", "task": "countdown"}
    done = run("grade-audit", str(write_rows(tmp_path / "mixed.jsonl", {"label": "24", "task": "math"}, bad)))
    assert done.returncode == 1
    assert "mixed.jsonl:2: '24' cannot be parsed" in done.stdout
    empty = run("grade-audit", str(write_rows(tmp_path / "empty.jsonl")))
    assert empty.returncode == 2
    assert "no rows, so there is nothing to audit" in empty.stderr
    unknown = run("grade-audit", str(write_rows(tmp_path / "unknown.jsonl", {"label": "1", "task": "mine"})))
    assert unknown.returncode == 2
    assert "unknown.jsonl:1: unknown task 'mine'" in unknown.stderr


def test_audit_names_labels_that_lose_something(tmp_path: Path) -> None:
    """Catches labels without an answer, and those of which a parser drops a part, that pass as good ones."""
    bad = [
        "proof",
        "notfound",
        "N/A",
        "???",
        "nan",
        "The answer is 4",
        r"4 \heartsuit",
        r"4 \clubsuit",
        r"\frac{1}{",
        "x = ",
    ]
    good = ["$6m$", "R-r", "-x + c", "16,3,1,1", "24,300", "$t(0,4]$", r"\sum_{k=1}^{n} k", r"\text{no solution}"]
    done = run("grade-audit", str(write_rows(tmp_path / "labels.jsonl", *({"label": label} for label in bad + good))))
    *problems, summary = done.stdout.splitlines()
    assert [int(problem.split(":")[1]) for problem in problems] == list(range(1, 11))
    assert summary == "18 labels, 10 that cannot be graded"
