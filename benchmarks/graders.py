"""Compares graders on the same rows: how often each agrees with the expected verdict, and its time per row.

    python -m benchmarks.graders [--rows FILE] [--output benchmarks/results/graders.json]

The outside graders are installed at pinned versions, without dependencies that grading does not need, into virtual
environments in a temporary folder, and run one after another. Rows are JSON Lines with `label`, `response` (with a
box), `expected` (correct or wrong) and `kind`; without --rows, `grader/respellings.jsonl` in OPENR1_DATA_DIR is used.
The table in docs/grading.md is filled with the result.

Not compared: verl's prime_math, which passes answers to Python's `eval`, and verl's math_verify module, which is
Math-Verify behind a pool of processes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, write_result
from benchmarks.markdown import fill_table
from openr1.errors import MissingError
from reward_server.config import ServerConfig
from reward_server.grader import Grader
from reward_server.grading.extraction import find_boxed
from reward_server.schema import ScoreItem
from reward_server.tasks import find_task

KINDS = {
    "": "spellings that most graders read",
    "K1": "letters behind a number",
    "K2": "capital and small letters",
    "K3": "upright letters",
    "K4": "number words and limits",
    "K5": "words",
    "K6": "repeats in lists",
    "K7": "equations",
    "K8": "mixed numbers and percent",
    "K9": "number bases",
    "K10": "degrees",
    "K11": "repeating decimals",
    "K12": "commas between digits",
    "K13": "the empty set",
    "K14": "currency",
    "K16": "golds with several formulas",
    "K17": "conditions behind the answer",
    "K18": "indices such as max",
    "K20": "Unicode",
    "K21": "identities of positive letters",
    "K23": "text with numbers",
    "K24": "products without a sign",
    "K25": "mixed numbers in pairs",
    "K26": "dates",
    "other": "dotted decimals",
}
"""Names of the kinds of rows for the table."""
PAGE = ROOT / "docs/grading.md"
CHILD = Path(__file__).with_name("grader_child.py")
SECONDS = 1800
"""Limit for installing and running one grader."""
OURS = "openr1"
Result = dict[str, Any]


@dataclass(frozen=True)
class OutsideGrader:
    """Packages to install without their dependencies, and packages to install with them."""

    alone: Sequence[str]
    complete: Sequence[str]


_SYMPY = ("sympy==1.14.0", "antlr4-python3-runtime==4.11.0")
OUTSIDE: Mapping[str, OutsideGrader] = {
    "math-verify": OutsideGrader((), ("math-verify==0.9.0", "latex2sympy2_extended==1.11.0", *_SYMPY)),
    "lighteval": OutsideGrader(
        ("lighteval==0.13.0",),
        # Its own pin of the parser needs another ANTLR.
        ("latex2sympy2_extended==1.0.6", "numpy", "packaging", "pytablewriter", "antlr4-python3-runtime==4.13.2"),
    ),
    "minerva": OutsideGrader(("lm-eval==0.4.13",), ("math-verify==0.9.0", "latex2sympy2_extended==1.11.0", *_SYMPY)),
    "verl-math": OutsideGrader(("verl==0.9.1",), ()),
    "verl-dapo": OutsideGrader(("verl==0.9.1",), ()),
    "openrlhf": OutsideGrader(("openrlhf==0.11.2",), ("pylatexenc==2.10", *_SYMPY)),
}


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows whose response has a box, with its content as `answer`."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{**row, "answer": answer} for row in rows if (answer := find_boxed(row["response"])) is not None]


def grade_ours(rows: Sequence[Mapping[str, str]]) -> list[Result]:
    """Results of openr1 with one worker, row by row. The first row is graded twice, to start the worker."""
    results = []
    with Grader(ServerConfig(workers=1)) as grader:
        grader.self_test()
        for row in rows:
            item = ScoreItem(id="0", response=row["response"], label=row["label"])
            start = time.perf_counter()
            ((result, _),) = grader.grade(find_task("math"), [item])
            seconds = time.perf_counter() - start
            correct = None if result.reward is None else result.verdict == "correct"
            results.append({"correct": correct, "seconds": seconds})
    return results


def grade_outside(name: str, rows: Sequence[Mapping[str, str]], folder: Path) -> list[Result] | str:
    """Results of an outside grader; or why there are none, in one line."""
    grader = OUTSIDE[name]
    environment = folder / name
    python = environment / "bin" / "python"
    steps = [[sys.executable, "-m", "venv", str(environment)]]
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    # Only wheels: building a package would run its own build script.
    steps += [[*install, "--only-binary", ":all:", "--no-deps", *grader.alone]] if grader.alone else []
    steps += [[*install, *grader.complete]] if grader.complete else []
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode != 0:
            return f"cannot be installed: {_last_line(done.stderr)}"
    done = subprocess.run(
        [str(python), str(CHILD), name],
        input="".join(json.dumps(dict(row)) + "\n" for row in rows),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )
    if done.returncode != 0:
        return f"cannot be run: {_last_line(done.stderr)}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1][:200]


def summarize(rows: Sequence[Mapping[str, str]], results: Sequence[Result]) -> dict[str, Any]:
    """Agreement with the expected verdicts by kind, wrong verdicts in both directions, and microseconds per row."""
    agreed: dict[str, int] = defaultdict(int)
    paid = unpaid = failed = 0
    for row, result in zip(rows, results, strict=True):
        expected = row["expected"] == "correct"
        agreed[row["kind"]] += result["correct"] is expected
        failed += result["correct"] is None
        paid += result["correct"] is True and not expected
        unpaid += result["correct"] is False and expected
    micros = [result["seconds"] * 1e6 for result in results]
    return {
        "agreed": sum(agreed.values()),
        "wrong_answers_accepted": paid,
        "right_answers_refused": unpaid,
        "failed": failed,
        "agreed_by_kind": dict(sorted(agreed.items())),
        "microseconds_per_row": {"median": statistics.median(micros), "mean": statistics.fmean(micros)},
    }


def table(result: Mapping[str, Any]) -> list[list[str]]:
    """The result as a table: rows as expected by kind, wrong verdicts in both directions, and the time per row."""
    graders = {name: one for name, one in result["graders"].items() if "error" not in one}
    lines = [["kind", "rows", *graders]]
    for kind, count in sorted(result["kinds"].items(), key=lambda pair: -pair[1]):
        agreed = [str(one["agreed_by_kind"].get(kind, 0)) for one in graders.values()]
        lines.append([KINDS.get(kind, kind), str(count), *agreed])
    lines.append(["**as expected**", str(result["rows"]), *(f"**{one['agreed']}**" for one in graders.values())])
    for key in ("wrong_answers_accepted", "right_answers_refused", "failed"):
        lines.append([key.replace("_", " "), "", *(str(one[key]) for one in graders.values())])
    times = [f"{one['microseconds_per_row']['median']:,.0f}" for one in graders.values()]
    lines.append(["microseconds per row, median", "", *times])
    return lines


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=Path, help="rows to grade")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/graders.json")
    args = parser.parse_args()
    path = args.rows or Path(os.environ.get("OPENR1_DATA_DIR", "no-data")) / "grader" / "respellings.jsonl"
    if not path.is_file():
        raise MissingError(f"{path}: no such file; name one with --rows, or set OPENR1_DATA_DIR")
    rows = read_rows(path)
    kinds: dict[str, int] = defaultdict(int)
    for row in rows:
        kinds[row["kind"]] += 1
    graders: dict[str, Any] = {OURS: summarize(rows, grade_ours(rows))}
    with tempfile.TemporaryDirectory() as folder:
        for name in OUTSIDE:
            results = grade_outside(name, rows, Path(folder))
            graders[name] = {"error": results} if isinstance(results, str) else summarize(rows, results)
            print(f"{name}: {graders[name].get('agreed', graders[name].get('error'))}", file=sys.stderr)
    versions = {name: [*grader.alone, *grader.complete] for name, grader in OUTSIDE.items()}
    result = {"rows": len(rows), "kinds": dict(sorted(kinds.items())), "versions": versions, "graders": graders}
    write_result(args.output, result)
    PAGE.write_text(fill_table(PAGE.read_text(encoding="utf-8"), "graders", table(result)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
