"""`score`: grade one response, or every row of a file, exactly as the server would. Needs no server and no GPU."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from reward_server.grader import Grader
    from reward_server.schema import ScoreItem, ScoreResult
    from reward_server.tasks import Tasks

BATCH = 512
"""Number of rows graded in parallel."""
DEFAULT_TASK = "math"


class _Row(NamedTuple):
    """An item to grade, its task, and all columns of its row in the file."""

    item: "ScoreItem"
    task: str
    columns: dict[str, Any]


def run(argv: list[str]) -> int:
    """Print one JSON object per response, as in the reply of `POST /get_score`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cli score",
        description="Grade one response (--label and --response), or every row of a file, as the server would.",
    )
    parser.add_argument(
        "--task", help="task to grade by (default: the only function of --module, else the row's task, else math)"
    )
    parser.add_argument("--label", help="ground truth, in the format of the task")
    parser.add_argument("--response", help="response of the policy; - reads it from standard input")
    parser.add_argument("--prefix", default="", help="assistant text already in the prompt, such as <think>")
    parser.add_argument("--finish-reason", choices=["stop", "length"], help="length: the response was truncated")
    parser.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="JSON Lines with response and label, such as rollouts/*.jsonl of a run",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="config file of the server, as for serve")
    parser.add_argument("--module", metavar="MODULE", help="your reward functions, as for serve")
    arguments = parser.parse_args(argv)
    single = arguments.label is not None and arguments.response is not None
    if single == (arguments.file is not None):
        parser.error("give --label and --response, or --file")

    from openr1.errors import ConfigError
    from reward_server.config_file import ConfigFileError
    from reward_server.functions.module import ModuleError
    from reward_server.functions.tasks import settings_and_tasks
    from reward_server.grader import Grader
    from reward_server.printable import printable
    from reward_server.tasks import UnknownTask

    try:
        config, tasks = settings_and_tasks(arguments.config, arguments.module)
        task = arguments.task or _only_function(arguments.module)
        rows = [_given_row(arguments, task)] if single else list(_response_rows(arguments.file, task))
        with Grader(config) as grader:
            verdicts: Counter[str] = Counter()
            changed = 0
            for row, result in _grade(grader, tasks, rows):
                print(printable(result.model_dump_json()))
                verdicts[f"{result.verdict} (not read)" if result.reason else result.verdict] += 1
                changed += "reward" in row.columns and row.columns["reward"] != result.reward
    except (ConfigFileError, ModuleError, UnknownTask) as error:
        raise ConfigError(str(error)) from error
    if not single:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        print(f"score: {sum(verdicts.values())} rows: {counts}; {changed} with another reward", file=sys.stderr)
    return 0


def _only_function(module: str | None) -> str | None:
    """The function of a module that has one, which then grades everything."""
    from reward_server.functions.module import absolute_module, inspect_module

    names = () if module is None else inspect_module(absolute_module(module)).names
    return names[0] if len(names) == 1 else None


def _given_row(arguments: argparse.Namespace, task: str | None) -> _Row:
    from reward_server.schema import ScoreItem

    response = sys.stdin.read() if arguments.response == "-" else arguments.response
    item = ScoreItem(
        id="0",
        response=response,
        label=arguments.label,
        prefix=arguments.prefix,
        finish_reason=arguments.finish_reason,
    )
    return _Row(item, task or DEFAULT_TASK, {})


def _response_rows(path: Path, task: str | None) -> Iterator[_Row]:
    """All rows of a file. A row without an id gets its line number as id."""
    from pydantic import ValidationError

    from openr1.errors import ConfigError
    from openr1.runtime.files import read_objects
    from reward_server.compat.openrlhf import to_label
    from reward_server.schema import ScoreItem, describe_problems

    for location, columns in read_objects(path):
        if not (isinstance(columns.get("response"), str) and "label" in columns):
            raise ConfigError(f"{location}: a row needs response and label")
        row = {"id": location.rpartition(":")[2], **columns, "label": to_label(columns["label"])}
        try:
            item = ScoreItem(**{name: value for name, value in row.items() if name in ScoreItem.model_fields})
        except ValidationError as error:
            raise ConfigError(f"{location}: {describe_problems(error.errors())}") from error
        yield _Row(item, task or str(row.get("task", DEFAULT_TASK)), columns)


def _grade(grader: "Grader", tasks: "Tasks", rows: Sequence[_Row]) -> "Iterator[tuple[_Row, ScoreResult]]":
    """Grade all rows, batch by batch, and yield each row with its result, in order."""
    from reward_server.app import to_score_result
    from reward_server.tasks import find_task

    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        by_task: dict[str, list[int]] = {}
        for index, row in enumerate(batch):
            by_task.setdefault(row.task, []).append(index)
        results: dict[int, ScoreResult] = {}
        for name, chosen in by_task.items():
            graded = grader.grade(find_task(name, tasks), [batch[index].item for index in chosen])
            for index, (result, seconds) in zip(chosen, graded, strict=True):
                results[index] = to_score_result(batch[index].item.id, result, seconds)
        yield from ((row, results[index]) for index, row in enumerate(batch))
