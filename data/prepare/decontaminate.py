"""Find training questions that also occur in a benchmark, by n-gram overlap or an exact match."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data.prepare.formats import PUZZLE_TASKS, ReadOptions, convert_file, question_key, question_text
from data.prepare.readers import BadRowHandler
from openr1.errors import ConfigError

FOLDER_SUFFIXES = (".jsonl", ".parquet")
"""Suffixes of the files that are read from a benchmark folder."""
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words and numbers.

    Punctuation and symbols are dropped; each Chinese character is a word.

    Example:
        >>> split_words("Find $x_1 + 2y$.")
        ['find', 'x', '1', '2y']
    """
    return _WORD.findall(text.lower())


def _iter_ngrams(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)


class BenchmarkIndex:
    """Index of benchmark questions; a lookup takes time linear in the length of the question."""

    def __init__(self, ngram_size: int) -> None:
        """Create an empty index.

        Args:
            ngram_size: Number of consecutive shared words that makes two questions the same; at least 1.
        """
        self._size = ngram_size
        self._keys: dict[str, str] = {}
        self._short: dict[tuple[str, ...], str] = {}
        self._ngrams: dict[tuple[str, ...], str] = {}

    def add(self, row: dict[str, Any], name: str) -> None:
        """Add a question, given as a row in the openr1 format, of the benchmark `name`."""
        key = question_key(row)
        self._keys.setdefault(key, name)
        if row["task"] in PUZZLE_TASKS:
            # Puzzle prompts share their wording; only numbers and target identify a puzzle.
            return
        words = split_words(question_text(row))
        if len(words) < self._size:
            self._short.setdefault(tuple(words), name)
        for ngram in _iter_ngrams(words, self._size):
            self._ngrams.setdefault(ngram, name)

    def find(self, row: dict[str, Any], key: str) -> str | None:
        """Return the name of the benchmark that contains this question, or None.

        A question is contained if it shares `ngram_size` consecutive words with a benchmark question, if it equals a
        benchmark question shorter than that word by word, or if it is the same number puzzle.

        Args:
            row: A row in the openr1 format.
            key: Its `question_key`.
        """
        if key in self._keys or row["task"] in PUZZLE_TASKS:
            return self._keys.get(key)
        words = split_words(question_text(row))
        if len(words) < self._size:
            return self._short.get(tuple(words))
        return next((self._ngrams[ngram] for ngram in _iter_ngrams(words, self._size) if ngram in self._ngrams), None)


def load_benchmarks(paths: Iterable[Path], ngram_size: int) -> BenchmarkIndex:
    """Index benchmark files of any supported format; a folder means all its .jsonl and .parquet files.

    Raises:
        MissingError: A file cannot be read.
        ConfigError: A folder contains no such file, or a row has no question.
    """
    index = BenchmarkIndex(ngram_size)
    for path in paths:
        files = sorted(file for file in path.iterdir() if file.suffix in FOLDER_SUFFIXES) if path.is_dir() else [path]
        if not files:
            raise ConfigError(f"{path}: contains no {' or '.join(FOLDER_SUFFIXES)} file")
        for file in files:
            for _, row in convert_file(file, ReadOptions(), BadRowHandler(skip=False)):
                index.add(row, file.name)
    return index
