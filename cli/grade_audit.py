"""`grade-audit`: find labels of a dataset that no answer could match."""

import argparse
import time
from pathlib import Path

SECONDS = 600.0
"""Time limit in seconds for all comparisons of a file."""
OTHER_ANSWER = "0"
"""An answer with other text than a label. Only the label's own text is compared without reading the label."""


def run(argv: list[str]) -> int:
    """Print every label that has no answer, cannot be read completely, or does not equal itself.

    Returns:
        1 if there are any, else 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cli grade-audit",
        description="Find labels that hold no answer, cannot be read without losing something, or do not equal "
        "themselves. Exit code 1 if there are any.",
    )
    parser.add_argument("file", type=Path, help="JSON Lines with label or answer")
    parser.add_argument("--task", help="task that defines the format of labels (default: each row's own, or math)")
    arguments = parser.parse_args(argv)

    from openr1.errors import ConfigError
    from reward_server.config import ServerConfig
    from reward_server.grader import Grader
    from reward_server.grading.golds import read_gold
    from reward_server.printable import printable
    from reward_server.tasks import UnknownTask, find_task
    from reward_server.tasks.task import CannotGrade, Comparison, LabelError

    try:
        find_task(arguments.task or "math")
    except UnknownTask as error:
        raise ConfigError(str(error)) from error
    problems: list[tuple[int, str]] = []
    comparisons: dict[int, Comparison] = {}
    labels = _read_labels(arguments.file, arguments.task)
    for number, label, name in labels:
        try:
            gold = find_task(name).parse_label(label)
        except UnknownTask as error:
            raise ConfigError(f"{arguments.file}:{number}: {error}") from error
        except LabelError as error:
            problems.append((number, f"{label[:100]!r} cannot be parsed: {error}"))
        else:
            if isinstance(gold, str):
                comparisons[number] = Comparison(gold, gold)
    # What the package does not read itself is read by the parser; a label's own text would not show what that loses.
    others = {
        number: Comparison(OTHER_ANSWER, comparison.gold)
        for number, comparison in comparisons.items()
        if not read_gold(comparison.gold)
    }
    with Grader(ServerConfig()) as grader:
        results = grader.compare_all({*comparisons.values(), *others.values()}, time.monotonic() + SECONDS)
    for number, comparison in comparisons.items():
        outcome = results[comparison].outcome
        reading = results[others[number]].outcome if number in others else True
        failure = next((one for one in (outcome, reading) if isinstance(one, CannotGrade)), None)
        if failure is not None:
            problems.append((number, f"{comparison.gold[:100]!r}: {failure}"))
        elif outcome is not True:
            problems.append((number, f"{comparison.gold[:100]!r} does not equal itself"))
    for number, problem in sorted(problems):
        print(printable(f"{arguments.file}:{number}: {problem}"))
    print(f"{len(labels)} labels, {len(problems)} that cannot be graded")
    return 1 if problems else 0


def _read_labels(path: Path, task: str | None) -> list[tuple[int, str, str]]:
    """Line number, label and task of every row; `task` overrides the rows' own."""
    from openr1.errors import ConfigError
    from openr1.runtime.files import read_objects
    from reward_server.compat.openrlhf import to_label

    labels = []
    for location, row in read_objects(path):
        if "label" not in row and "answer" not in row:
            raise ConfigError(f"{location}: no label or answer")
        label = to_label(row.get("label", row.get("answer")))
        labels.append((int(location.rpartition(":")[2]), label, task or row.get("task", "math")))
    if not labels:
        raise ConfigError(f"{path}: no rows, so there is nothing to audit")
    return labels
