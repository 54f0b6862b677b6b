"""Benchmarks: file locations, parsing of rows, and rendering to prompts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from openr1.data.chat import PromptFormat, naming, render
from openr1.data.rows import read_rows
from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import read_objects
from openr1.types import Prompt

SYSTEM_PROMPT = r"Please reason step by step, and put your final answer within \boxed{}."
"""System prompt of the published MATH recipe."""

FILES = {
    "gsm8k": "GSM8k.jsonl",
    "math500": "MATH500.jsonl",
    "amc23": "AMC23.jsonl",
    "olympiadbench": "OlympiadBench.jsonl",
}
"""File of each named benchmark. The rows have `question` and `answer`."""


@dataclass(frozen=True)
class Problem:
    """One row of a benchmark: the question and its ground truth. `location` is file:line, for messages."""

    id: str
    row: dict[str, Any]
    label: str
    task: str
    location: str


@dataclass(frozen=True)
class Benchmark:
    """The problems of a benchmark, its name in files and tables, and the format of its prompts."""

    name: str
    problems: list[Problem]
    prompt_format: PromptFormat


def load_benchmark(spec: str, folder: Path) -> Benchmark:
    """Read a benchmark.

    Args:
        spec: A name in `FILES`, read from `folder`, or the path of a JSON Lines file in the schema of data/README.md.
        folder: Folder with the files of named benchmarks.

    Raises:
        MissingError: The file does not exist.
        ConfigError: A row is malformed, an id occurs twice, or one question has two answers.
    """
    if spec in FILES:
        benchmark = Benchmark(spec, list(_named_problems(spec, folder / FILES[spec])), PromptFormat(SYSTEM_PROMPT))
    elif spec.endswith(".jsonl"):
        rows = read_rows(Path(spec))
        problems = [Problem(row["id"], row, row["label"], row["task"], location) for location, row in rows]
        benchmark = Benchmark(Path(spec).stem, problems, PromptFormat())
    else:
        raise ConfigError(f"unknown benchmark {spec!r}; give a .jsonl file or one of {', '.join(FILES)}")
    _check_unique(benchmark.problems)
    return benchmark


def _named_problems(name: str, path: Path) -> Iterator[Problem]:
    if not path.is_file():
        raise MissingError(f"benchmark {name}: no file {path}; --data names the folder")
    for number, (location, row) in enumerate(read_objects(path), start=1):
        if not isinstance(row.get("question"), str) or "answer" not in row:
            raise ConfigError(f"{location}: needs `question`, a string, and `answer`")
        yield Problem(f"{name}/{number}", {"prompt": row["question"]}, str(row["answer"]), "math", location)


def _check_unique(problems: list[Problem]) -> None:
    """Check that no id occurs twice, and that no question has two different answers."""
    ids: dict[str, str] = {}
    labels: dict[str, Problem] = {}
    for problem in problems:
        if problem.id in ids:
            raise ConfigError(f"{problem.location}: duplicate id {problem.id!r}, also in {ids[problem.id]}")
        ids[problem.id] = problem.location
        question = json.dumps(problem.row.get("prompt") or problem.row["messages"])
        other = labels.setdefault(question, problem)
        if other.label != problem.label:
            raise ConfigError(f"{problem.location}: the same question as {other.location}, but with another answer")


def to_prompts(
    benchmark: Benchmark, tokenizer: PreTrainedTokenizerBase, max_model_len: int, generate_max_len: int
) -> list[Prompt]:
    """Render and tokenize all problems.

    Raises:
        ConfigError: A prompt and its longest response would not fit into `max_model_len` tokens.
    """
    prompts = []
    for problem in benchmark.problems:
        with naming(problem.location):
            text, prefix = render(problem.row, tokenizer, benchmark.prompt_format)
        token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if len(token_ids) + generate_max_len > max_model_len:
            raise ConfigError(
                f"{problem.location}: {len(token_ids)} prompt tokens and --max-tokens {generate_max_len} exceed the "
                f"{max_model_len} positions of the model; lower --max-tokens"
            )
        prompts.append(
            Prompt(problem.id, text, token_ids, problem.label, problem.task, prefix, problem.row.get("meta", {}))
        )
    return prompts
