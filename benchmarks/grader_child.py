"""Runs one outside grader over rows, in its own environment. Started by `benchmarks.graders`; imports none of ours.

    python grader_child.py GRADER < rows.jsonl > results.jsonl

Rows have `label`, `answer` (the content of the last box) and `response`. Results have `correct` (null if the grader
raised or took too long) and `seconds`. Modules are loaded without the `__init__.py` of the packages above them, which
would need the packages' heavy dependencies.
"""

import contextlib
import importlib
import io
import json
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 10
"""Limit for one row."""
Row = dict[str, str]
Grade = Callable[[Row], bool]


class TooSlow(Exception):
    """A row took longer than `SECONDS`."""


def load(module: str) -> Any:
    """Import a module below empty packages; the same packages serve all modules."""
    folder = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    parts = module.split(".")
    for length in range(1, len(parts)):
        name = ".".join(parts[:length])
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(folder.joinpath(*parts[:length]))]
            sys.modules[name] = package
    return importlib.import_module(module)


def in_dollars(label: str) -> str:
    """A label as mathematics in text, which graders that search whole texts expect."""
    return label if "$" in label else f"${label}$"


def math_verify() -> Grade:
    """Math-Verify as its documentation shows it: default options on both sides."""
    from math_verify import parse, verify

    return lambda row: bool(verify(parse(in_dollars(row["label"])), parse(row["response"])))


def lighteval() -> Grade:
    """The extractive match of lighteval, with LaTeX golds, and LaTeX and plain expressions in responses."""
    for package in ("lighteval.tasks.templates.utils", "lighteval.utils", "lighteval.metrics.utils"):
        with contextlib.suppress(ModuleNotFoundError):
            load(f"{package}.no_module")
    match = load("lighteval.metrics.utils.extractive_match_utils")
    compare = load("lighteval.metrics.utils.math_comparison").compare_gold_target
    language = load("lighteval.utils.language").Language.ENGLISH
    latex, plain = match.LatexExtractionConfig(), match.ExprExtractionConfig()
    of_golds = match.get_extraction_regexes_inspect((latex,), language)
    of_responses = match.get_extraction_regexes_inspect((plain, latex), language)

    def grade(row: Row) -> bool:
        gold = match.extract_target_from_pred(in_dollars(row["label"]), of_golds)
        found = match.extract_target_from_pred(row["response"], of_responses)
        return bool(compare(gold, found, 6))

    return grade


def minerva() -> Grade:
    """The string and sympy comparison of lm-eval's minerva_math, on the content of the box."""
    module = load("lm_eval.tasks.minerva_math.utils")
    clean = module.normalize_final_answer
    return lambda row: bool(module.is_equiv(clean(row["answer"]), clean(row["label"])))


def verl_math() -> Grade:
    """The rule grader of verl for MATH: normalized strings."""
    module = load("verl.utils.reward_score.math_reward")
    return lambda row: module.compute_score(row["response"], row["label"]) == 1.0


def verl_dapo() -> Grade:
    """The rule grader of verl for DAPO: the last box, as a normalized string."""
    module = load("verl.utils.reward_score.math_dapo")
    return lambda row: bool(module.verify(row["response"], row["label"], strict_box_verify=True)[0])


def openrlhf() -> Grade:
    """The rule grader of OpenRLHF: normalized strings, then sympy, on the content of the box."""
    module = load("openrlhf.utils.math_utils")
    return lambda row: bool(module.grade_answer(row["answer"], row["label"]))


GRADERS: dict[str, Callable[[], Grade]] = {
    "math-verify": math_verify,
    "lighteval": lighteval,
    "minerva": minerva,
    "verl-math": verl_math,
    "verl-dapo": verl_dapo,
    "openrlhf": openrlhf,
}


def run_one(grade: Grade, row: Row) -> dict[str, Any]:
    """Result of one row; what the grader prints is dropped."""
    start = time.perf_counter()
    correct: bool | None = None
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            correct = grade(row)
    except Exception:  # noqa: BLE001 (whatever a grader raises, it has not graded the row)
        correct = None
    finally:
        signal.alarm(0)
    return {"correct": correct, "seconds": time.perf_counter() - start}


def interrupt(number: int, frame: Any) -> None:
    """Handle the alarm."""
    raise TooSlow


def main() -> None:
    """Grade every row of standard input; the first also warms the grader up."""
    signal.signal(signal.SIGALRM, interrupt)
    grade = GRADERS[sys.argv[1]]()
    rows = [json.loads(line) for line in sys.stdin]
    run_one(grade, rows[0])
    for row in rows:
        print(json.dumps(run_one(grade, row)), flush=True)


if __name__ == "__main__":
    main()
