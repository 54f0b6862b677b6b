"""`grade-audit`: which labels of a dataset could never be graded right."""

import argparse
import time
from pathlib import Path

SECONDS = 600.0
"""For all comparisons of a file together."""


def run(argv: list[str]) -> int:
    """Print every label that cannot be read or does not equal itself; 0 where there is none, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m cli grade-audit",
        description="Find labels that cannot be read, or do not equal themselves; exit code 1 where there are any.",
    )
    parser.add_argument("file", type=Path, help="JSON lines with label or answer")
    parser.add_argument("--task", default="math", help="how the labels are read (default: %(default)s)")
    arguments = parser.parse_args(argv)

    from openr1.errors import ConfigError
    from reward_server.config import ServerConfig
    from reward_server.grader import Grader
    from reward_server.tasks import UnknownTask, find_task
    from reward_server.tasks.task import CannotGrade, Comparison, LabelError

    try:
        task = find_task(arguments.task)
    except UnknownTask as error:
        raise ConfigError(str(error)) from error
    found: list[tuple[int, str]] = []
    comparisons: dict[int, Comparison] = {}
    labels = _read_labels(arguments.file)
    for number, label in labels:
        try:
            gold = task.parse_label(label)
        except LabelError as error:
            found.append((number, f"{label[:100]!r} cannot be read: {error}"))
        else:
            if isinstance(gold, str):
                comparisons[number] = Comparison(gold, gold)
    with Grader(ServerConfig()) as grader:
        answers = grader.compare_all(set(comparisons.values()), time.monotonic() + SECONDS)
    for number, comparison in comparisons.items():
        outcome = answers[comparison].outcome
        if isinstance(outcome, CannotGrade):
            found.append((number, f"{comparison.gold[:100]!r}: {outcome}"))
        elif not outcome:
            found.append((number, f"{comparison.gold[:100]!r} does not equal itself"))
    for number, problem in sorted(found):
        print(f"{arguments.file}:{number}: {problem}")
    print(f"{len(labels)} labels, {len(found)} that cannot be graded")
    return 1 if found else 0


def _read_labels(path: Path) -> list[tuple[int, str]]:
    """Line numbers and labels."""
    from openr1.errors import ConfigError
    from openr1.files import read_objects
    from reward_server.compat.openrlhf import to_label

    labels = []
    for place, row in read_objects(path):
        if "label" not in row and "answer" not in row:
            raise ConfigError(f"{place}: no label or answer")
        labels.append((int(place.rpartition(":")[2]), to_label(row.get("label", row.get("answer")))))
    return labels
