"""Preference pairs for DPO: a prompt with a chosen and a rejected response."""

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
    """Token ids of a prompt and two responses. A response ends with the end token unless it was truncated."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def load_pairs(path: Path, tokenizer: PreTrainedTokenizerBase, data: DpoDataConfig) -> tuple[list[Pair], int]:
    """Load pairs from a JSONL file, or build them from the rollouts of a run.

    Rows of a file have `prompt` or `messages`, and `chosen` and `rejected`. From a run folder, each group of rollouts
    with at least two distinct rewards gives one pair: its best and its worst response. Ties go to the response that
    comes first.

    Returns:
        The pairs, and the number of pairs that were dropped because they exceed `data.max_len` tokens.

    Raises:
        MissingError: The file, or the rollouts of the run, do not exist.
        ConfigError: A row is malformed, or no pair remains.
    """
    tokenize = _tokenize_rollouts if path.is_dir() else _tokenize_rows
    pairs = list(tokenize(path, tokenizer, data))
    kept = [pair for pair in pairs if _longest(pair) <= data.max_len]
    if not kept:
        why = f"all {len(pairs)} pairs are longer than data.max_len {data.max_len}" if pairs else "no pairs"
        raise ConfigError(f"{path}: {why}")
    return kept, len(pairs) - len(kept)


def fingerprint(pair: Pair) -> str:
    """Hash of a pair's token ids, equal if and only if they are (up to collisions of 64 bits)."""
    return hashlib.sha256(repr(pair).encode()).hexdigest()[:16]


def _longest(pair: Pair) -> int:
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


def _tokenize_rows(path: Path, tokenizer: PreTrainedTokenizerBase, data: DpoDataConfig) -> Iterator[Pair]:
    prompt_format = PromptFormat(data.system_prompt, data.assistant_prefix)
    end = end_token_ids(tokenizer)[:1]
    for location, row in read_objects(path):
        check_prompt(row, location)
        for key in ("chosen", "rejected"):
            if not isinstance(row.get(key), str):
                raise ConfigError(f"{location}: `{key}` must be a string")
        prompt, _ = render(row, tokenizer, prompt_format)
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in (prompt, row["chosen"], row["rejected"])]
        yield Pair(ids[0], ids[1] + end, ids[2] + end)


def _tokenize_rollouts(folder: Path, tokenizer: PreTrainedTokenizerBase, data: DpoDataConfig) -> Iterator[Pair]:
    files = sorted(folder.glob("rollouts/step_*.jsonl"))
    if not files:
        raise MissingError(f"{folder}: no rollouts/step_*.jsonl; give the folder of a run, or a .jsonl file of pairs")
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
    """Collate pairs into a batch of alternating rows: chosen, rejected, chosen, ..."""
    return TrainBatch.from_tokens(
        [(pair.prompt_ids, ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    )
