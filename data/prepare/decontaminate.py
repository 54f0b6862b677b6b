"""Find training questions that a benchmark asks too: a run of words in common, or all words."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data.prepare.formats import PUZZLES, Reading, convert_file, question_key, question_text
from data.prepare.readers import BadRows
from openr1.errors import ConfigError

IN_FOLDERS = (".jsonl", ".parquet")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")


def words(text: str) -> list[str]:
    """Words and numbers in lower case; a Chinese character is a word, punctuation and signs are none.

    Example:
        >>> words("Find $x_1 + 2y$.")
        ['find', 'x', '1', '2y']
    """
    return _WORD.findall(text.lower())


def _runs(found: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(found[start:] for start in range(size)), strict=False)


class Benchmarks:
    """Questions that must not be trained on. Looking one up takes time in proportion to its length alone."""

    def __init__(self, size: int) -> None:
        """`size`: so many words in a row make two questions the same; 1 or more."""
        self._size = size
        self._keys: dict[str, str] = {}
        self._short: dict[tuple[str, ...], str] = {}
        self._runs: dict[tuple[str, ...], str] = {}

    def add(self, row: dict[str, Any], name: str) -> None:
        """Take in a question of the benchmark `name`, a row in our schema."""
        key = question_key(row)
        self._keys.setdefault(key, name)
        if row["task"] in PUZZLES:
            # All are asked in the same words: only the numbers and the target can be in common.
            return
        found = words(question_text(row))
        if len(found) < self._size:
            self._short.setdefault(tuple(found), name)
        for run in _runs(found, self._size):
            self._runs.setdefault(run, name)

    def find(self, row: dict[str, Any], key: str) -> str | None:
        """The benchmark that asks this question, or None.

        It does where both have `size` words in a row in common; where all its words are the question's, in order, if
        it has fewer; and where they are the same puzzle of numbers.

        Args:
            row: In our schema.
            key: Its `question_key`.
        """
        if key in self._keys or row["task"] in PUZZLES:
            return self._keys.get(key)
        found = words(question_text(row))
        if len(found) < self._size:
            return self._short.get(tuple(found))
        return next((self._runs[run] for run in _runs(found, self._size) if run in self._runs), None)


def load_benchmarks(paths: Iterable[Path], size: int) -> Benchmarks:
    """Read benchmark files of any format; a folder stands for all its .jsonl and .parquet files.

    Raises:
        MissingError: A file cannot be read.
        ConfigError: A folder has no such file; a row has no question.
    """
    benchmarks = Benchmarks(size)
    for path in paths:
        files = sorted(file for file in path.iterdir() if file.suffix in IN_FOLDERS) if path.is_dir() else [path]
        if not files:
            raise ConfigError(f"{path}: no {' or '.join(IN_FOLDERS)} file there to compare with")
        for file in files:
            for _, row in convert_file(file, Reading(), BadRows(skip=False)):
                benchmarks.add(row, file.name)
    return benchmarks
