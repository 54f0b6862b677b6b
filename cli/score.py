"""`score`: grade one response, or every row of a file, as the server would; no server and no GPU."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH = 512
"""Rows that are graded side by side."""


def run(argv: list[str]) -> int:
    """Print what `POST /get_score` answers for an item, one JSON object a line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cli score",
        description="Grade one response (--label and --response), or every row of a file, as the server would.",
    )
    parser.add_argument("--task", help="how to grade (default: the row's own, else math)")
    parser.add_argument("--label", help="the known truth")
    parser.add_argument("--response", help="what the policy wrote; - reads standard input")
    parser.add_argument("--prefix", default="", help="assistant text that the prompt already opened, as <think>")
    parser.add_argument("--finish-reason", choices=["stop", "length"], help="length: the response was cut off")
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="JSON lines with response and label: a run's rollouts/*.jsonl"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with weights of tasks, as for serve")
    arguments = parser.parse_args(argv)
    single = arguments.label is not None and arguments.response is not None
    if single == (arguments.file is not None):
        parser.error("give --label and --response, or --file")

    from openr1.errors import ConfigError
    from reward_server.config import ConfigFileError, read_config
    from reward_server.grader import Grader
    from reward_server.settings import Settings
    from reward_server.tasks import TASKS, UnknownTask

    try:
        settings, tasks = read_config(arguments.config) if arguments.config else (Settings(), TASKS)
        rows = [_given_row(arguments)] if single else _response_rows(arguments.file)
        with Grader(settings) as grader:
            verdicts: Counter[str] = Counter()
            changed = 0
            for row, result in _grade(grader, tasks, rows, arguments.task):
                print(result.model_dump_json())
                verdicts[result.verdict] += 1
                changed += "reward" in row and row["reward"] != result.reward
    except (ConfigFileError, UnknownTask) as error:
        raise ConfigError(str(error)) from error
    if not single:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        print(f"score: {sum(verdicts.values())} rows: {counts}; {changed} with another reward", file=sys.stderr)
    return 0


def _given_row(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "id": "0",
        "response": sys.stdin.read() if arguments.response == "-" else arguments.response,
        "label": arguments.label,
        "prefix": arguments.prefix,
        "finish_reason": arguments.finish_reason,
    }


def _response_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a file that can be graded, each with the id that it has or its line number."""
    from pydantic import ValidationError

    from cli.rows import read_rows
    from openr1.errors import ConfigError
    from reward_server.openrlhf import to_label
    from reward_server.schema import ScoreItem, describe_problems

    rows = []
    for place, row in read_rows(path):
        if not (isinstance(row.get("response"), str) and "label" in row):
            raise ConfigError(f"{place}: a row needs response and label")
        row = {"id": place.rpartition(":")[2], **row, "label": to_label(row["label"])}
        try:
            ScoreItem(**{name: value for name, value in row.items() if name in ScoreItem.model_fields})
        except ValidationError as error:
            raise ConfigError(f"{place}: {describe_problems(error.errors())}") from error
        rows.append(row)
    return rows


def _grade(grader: Any, tasks: Any, rows: list[dict[str, Any]], task: str | None) -> Iterator[tuple[Any, Any]]:
    """Each row with its result, in order."""
    from reward_server.app import to_result
    from reward_server.schema import ScoreItem
    from reward_server.tasks import find_task

    fields = set(ScoreItem.model_fields)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        items = [ScoreItem(**{name: value for name, value in row.items() if name in fields}) for row in batch]
        names = [task or str(row.get("task", "math")) for row in batch]
        results: dict[int, Any] = {}
        for name in dict.fromkeys(names):
            chosen = [index for index, other in enumerate(names) if other == name]
            graded = grader.grade(find_task(name, tasks), [items[index] for index in chosen])
            results |= {index: to_result(items[index].id, *score) for index, score in zip(chosen, graded, strict=True)}
        yield from ((row, results[index]) for index, row in enumerate(batch))
