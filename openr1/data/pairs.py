"""Preference pairs: a prompt with two responses, the first preferred to the second."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from openr1.algorithms.batch import TrainBatch
from openr1.config.dpo import DpoDataConfig
from openr1.data.prompts import PromptFormat, check_prompt, end_token_ids, render
from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import read_objects


@dataclass(frozen=True)
class Pair:
    """Tokens of a prompt and of two responses; one that was not cut off ends with the end token."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def load_pairs(path: Path, tokenizer: PreTrainedTokenizerBase, data: DpoDataConfig) -> tuple[list[Pair], int]:
    """Pairs of a JSONL file, or of a run's folder; also how many were dropped because they are too long.

    A file's rows have prompt or messages, and `chosen` and `rejected`. Of a run, each group of rollouts whose rewards
    differ gives its best response and its worst, the first ones where several are.

    Raises:
        MissingError: There is nothing to read.
        ConfigError: A row is malformed, or no pair is left.
    """
    tokenize = _tokenize_rollouts if path.is_dir() else _tokenize_rows
    pairs = list(tokenize(path, tokenizer, data))
    kept = [pair for pair in pairs if _longest(pair) <= data.max_len]
    if not kept:
        why = f"all {len(pairs)} pairs are longer than data.max_len {data.max_len}" if pairs else "no pairs"
        raise ConfigError(f"{path}: {why}")
    return kept, len(pairs) - len(kept)


def fingerprint(pair: Pair) -> str:
    """A text that is the same for the same tokens."""
    return hashlib.sha256(repr(pair).encode()).hexdigest()[:16]


def _longest(pair: Pair) -> int:
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


def _tokenize_rows(path: Path, tokenizer: PreTrainedTokenizerBase, data: DpoDataConfig) -> Iterator[Pair]:
    prompt_format = PromptFormat(data.system_prompt, data.assistant_prefix)
    end = end_token_ids(tokenizer)[:1]
    for place, row in read_objects(path):
        check_prompt(row, place)
        for key in ("chosen", "rejected"):
            if not isinstance(row.get(key), str):
                raise ConfigError(f"{place}: `{key}` must be a string")
        prompt, _ = render(row, tokenizer, prompt_format)
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in (prompt, row["chosen"], row["rejected"])]
        yield Pair(ids[0], ids[1] + end, ids[2] + end)


def _tokenize_rollouts(folder: Path, tokenizer: PreTrainedTokenizerBase, data: DpoDataConfig) -> Iterator[Pair]:
    files = sorted(folder.glob("rollouts/step_*.jsonl"))
    if not files:
        raise MissingError(f"{folder}: no rollouts/step_*.jsonl; name the folder of a run, or a .jsonl file of pairs")
    end = end_token_ids(tokenizer)[:1]

    def response_ids(row: dict[str, Any]) -> list[int]:
        ids: list[int] = tokenizer.encode(row["response"], add_special_tokens=False)
        return ids + (end if row["finish_reason"] == "stop" else [])

    for file in files:
        rows = [row for _, row in read_objects(file) if row["reward"] is not None]
        for _, group in groupby(rows, key=lambda row: row["id"].rpartition("/")[0]):
            responses = list(group)
            best, worst = (pick(responses, key=lambda row: row["reward"]) for pick in (max, min))
            if best["reward"] > worst["reward"]:
                prompt_ids = tokenizer.encode(best["prompt"], add_special_tokens=False)
                yield Pair(prompt_ids, response_ids(best), response_ids(worst))


def to_batch(pairs: Sequence[Pair]) -> TrainBatch:
    """Rows chosen, rejected, chosen, ..."""
    return TrainBatch.from_tokens(
        [(pair.prompt_ids, ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    )
