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
from openr1.data.chat import PromptFormat, begin, end_token_ids, naming
from openr1.data.columns import pair_schema
from openr1.data.responses import ResponseEncoder, encode_after
from openr1.data.rollout_files import rollout_files
from openr1.data.rows import read_rows
from openr1.errors import ConfigError, MissingError
from openr1.runtime.console import say
from openr1.runtime.files import read_objects


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt and two responses. A response ends with the end token unless it was truncated."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def load_pairs(path: Path, tokenizer: PreTrainedTokenizerBase, data: DpoDataConfig) -> tuple[list[Pair], int]:
    """Load pairs from a dataset of pairs, or build them from the rollouts of a run.

    Its rows have `prompt` or `messages`, and `chosen` and `rejected`. From a run folder, each group of rollouts
    with at least two distinct rewards gives one pair: its best and its worst response. Ties go to the response that
    comes first.

    A pair of two equal responses is left out, since it has no gradient; how many these are is printed.

    Returns:
        The pairs, and the number of pairs that were dropped because they exceed `data.max_len` tokens.

    Raises:
        MissingError: The dataset cannot be read, or the run has no rollouts.
        ConfigError: A row is malformed, or no pair remains.
    """
    tokenize = _tokenize_rollouts if path.is_dir() else _tokenize_rows
    read = list(tokenize(path, tokenizer, data))
    pairs = [pair for pair in read if pair.chosen_ids != pair.rejected_ids]
    if len(pairs) < len(read):
        say(f"{path}: pairs that are left out since both responses are the same: {len(read) - len(pairs)}")
    kept = [pair for pair in pairs if _longest(pair) <= data.max_len]
    if not kept:
        equal = f"all {len(read)} pairs are of two equal responses" if read else "no pairs"
        why = f"all {len(pairs)} pairs are longer than data.max_len {data.max_len}" if pairs else equal
        raise ConfigError(f"{path}: {why}")
    return kept, len(pairs) - len(kept)


def fingerprint(pair: Pair) -> str:
    """Hash of a pair's token ids, equal if and only if they are (up to collisions of 64 bits)."""
    return hashlib.sha256(repr(pair).encode()).hexdigest()[:16]


def _longest(pair: Pair) -> int:
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


def _tokenize_rows(path: Path, tokenizer: PreTrainedTokenizerBase, data: DpoDataConfig) -> Iterator[Pair]:
    prompt_format = PromptFormat(data.system_prompt, data.assistant_prefix)
    responses = ResponseEncoder(tokenizer)
    for location, row in read_rows(path, pair_schema(data.columns)):
        with naming(location):
            start = begin(row, tokenizer, prompt_format)
            chosen, rejected = (responses.encode(start, row[key]) for key in ("chosen", "rejected"))
        yield Pair(tokenizer.encode(start.text, add_special_tokens=False), chosen, rejected)
    responses.report(path)


def _tokenize_rollouts(folder: Path, tokenizer: PreTrainedTokenizerBase, data: DpoDataConfig) -> Iterator[Pair]:
    files = [path for _, path in rollout_files(folder)]
    if not files:
        raise MissingError(f"{folder}: no rollouts/step_*.jsonl; give the folder of a run, or a .jsonl file of pairs")
    end = end_token_ids(tokenizer)[:1]

    num_responses = num_others = 0

    def response_ids(row: dict[str, Any]) -> list[int]:
        nonlocal num_responses, num_others
        ids = encode_after(tokenizer, row["response"]) + (end if row["finish_reason"] == "stop" else [])
        num_responses += 1
        num_others += len(ids) != row.get("num_tokens", len(ids))
        return ids

    for file in files:
        rows = [row for _, row in read_objects(file) if row["reward"] is not None]
        for _, group in groupby(rows, key=lambda row: row["id"].rpartition("/")[0]):
            responses = list(group)
            best, worst = (pick(responses, key=lambda row: row["reward"]) for pick in (max, min))
            if best["reward"] > worst["reward"]:
                prompt_ids = tokenizer.encode(best["prompt"], add_special_tokens=False)
                yield Pair(prompt_ids, response_ids(best), response_ids(worst))
    if num_others:
        # Rollouts keep text: several rows of tokens may have the same.
        say(f"{folder}: responses that are other tokens than were sampled: {num_others} of {num_responses}")


def to_batch(pairs: Sequence[Pair]) -> TrainBatch:
    """Collate pairs into a batch of alternating rows: chosen, rejected, chosen, ..."""
    return TrainBatch.from_tokens(
        [(pair.prompt_ids, ids) for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    )
