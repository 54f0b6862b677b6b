"""The benchmarks: where their files are, how their rows read, and the prompts made of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from openr1.data.prompts import PromptFormat, read_rows, render
from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import read_objects
from openr1.types import Prompt

SYSTEM_PROMPT = r"Please reason step by step, and put your final answer within \boxed{}."
"""What the published MATH recipe asks of its models."""

FILES = {
    "gsm8k": "GSM8k.jsonl",
    "math500": "MATH500.jsonl",
    "amc23": "AMC23.jsonl",
    "olympiadbench": "OlympiadBench.jsonl",
}
"""Benchmarks that go by a name; their rows have `question` and `answer`."""


@dataclass(frozen=True)
class Problem:
    """One row: what is asked, and the known truth. `place` is file:line, for messages."""

    id: str
    row: dict[str, Any]
    label: str
    task: str
    place: str


@dataclass(frozen=True)
class Benchmark:
    """A name, for files and tables, and its problems; `wording` goes around each question."""

    name: str
    problems: list[Problem]
    wording: PromptFormat


def load_benchmark(spec: str, folder: Path) -> Benchmark:
    """Read a benchmark.

    Args:
        spec: One of `FILES`, read from `folder`, or a path to JSON lines in the schema of data/README.md.
        folder: Where the files of named benchmarks are.

    Raises:
        MissingError: There is no such file.
        ConfigError: A row is malformed, an id stands twice, or one question has two answers.
    """
    if spec in FILES:
        benchmark = Benchmark(spec, list(_named_problems(spec, folder / FILES[spec])), PromptFormat(SYSTEM_PROMPT))
    elif spec.endswith(".jsonl"):
        problems = [Problem(row["id"], row, row["label"], row["task"], place) for place, row in read_rows(Path(spec))]
        benchmark = Benchmark(Path(spec).stem, problems, PromptFormat())
    else:
        raise ConfigError(f"unknown benchmark {spec!r}; give a .jsonl file or one of {', '.join(FILES)}")
    _check_unique(benchmark.problems)
    return benchmark


def _named_problems(name: str, path: Path) -> Iterator[Problem]:
    if not path.is_file():
        raise MissingError(f"benchmark {name}: no file {path}; --data names the folder")
    for number, (place, row) in enumerate(read_objects(path), start=1):
        if not isinstance(row.get("question"), str) or "answer" not in row:
            raise ConfigError(f"{place}: needs `question`, a string, and `answer`")
        yield Problem(f"{name}/{number}", {"prompt": row["question"]}, str(row["answer"]), "math", place)


def _check_unique(problems: list[Problem]) -> None:
    """No id twice, and no question with two different answers."""
    ids: dict[str, str] = {}
    labels: dict[str, Problem] = {}
    for problem in problems:
        if problem.id in ids:
            raise ConfigError(f"{problem.place}: id {problem.id!r} stands in {ids[problem.id]}, too")
        ids[problem.id] = problem.place
        question = json.dumps(problem.row.get("prompt") or problem.row["messages"])
        other = labels.setdefault(question, problem)
        if other.label != problem.label:
            raise ConfigError(f"{problem.place}: the same question as {other.place}, with another answer")


def to_prompts(
    benchmark: Benchmark, tokenizer: PreTrainedTokenizerBase, max_model_len: int, generate_max_len: int
) -> list[Prompt]:
    """Render and tokenize all problems.

    Raises:
        ConfigError: A prompt and its response would not fit into `max_model_len` tokens.
    """
    prompts = []
    for problem in benchmark.problems:
        text, prefix = render(problem.row, tokenizer, benchmark.wording)
        token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if len(token_ids) + generate_max_len > max_model_len:
            raise ConfigError(
                f"{problem.place}: {len(token_ids)} tokens and --max-tokens {generate_max_len} are more than the "
                f"{max_model_len} that the model has positions for"
            )
        prompts.append(
            Prompt(problem.id, text, token_ids, problem.label, problem.task, prefix, problem.row.get("meta", {}))
        )
    return prompts
