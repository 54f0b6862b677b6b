"""Datasets of supervised fine-tuning (SFT): each example is a prompt and the response to imitate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from openr1.algorithms.batch import TrainBatch
from openr1.config.sft import SftDataConfig
from openr1.data.chat import PromptFormat, begin, naming
from openr1.data.columns import example_schema
from openr1.data.responses import ResponseEncoder
from openr1.data.rows import read_rows
from openr1.errors import ConfigError


@dataclass(frozen=True)
class Example:
    """Token ids of one supervised example. The response includes the end token."""

    prompt_ids: list[int]
    response_ids: list[int]


def load_examples(path: Path, tokenizer: PreTrainedTokenizerBase, data: SftDataConfig) -> tuple[list[Example], int]:
    """Read, render and tokenize a supervised dataset.

    Returns:
        The examples, and the number of rows that were dropped because they exceed `data.max_len` tokens.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: A row is malformed, or the chat template would render it otherwise; a row exceeds `data.max_len`
            tokens while `data.overlong` is not `drop`, or every row exceeds it.
    """
    prompt_format = PromptFormat(data.system_prompt, data.assistant_prefix)
    responses = ResponseEncoder(tokenizer)
    examples = []
    dropped = 0
    for location, row in read_rows(path, example_schema(data.columns)):
        with naming(location):
            start = begin(row, tokenizer, prompt_format)
            response_ids = responses.encode(start, row["response"])
        prompt_ids = tokenizer.encode(start.text, add_special_tokens=False)
        length = len(prompt_ids) + len(response_ids)
        if length <= data.max_len:
            examples.append(Example(prompt_ids, response_ids))
        elif data.overlong == "drop":
            dropped += 1
        else:
            raise ConfigError(
                f"{location}: {length} tokens, more than data.max_len {data.max_len}; raise the limit, remove the row, "
                "or set data.overlong to drop"
            )
    responses.report(path)
    if not examples:
        raise ConfigError(f"{path}: all {dropped} rows are longer than data.max_len {data.max_len}; raise the limit")
    return examples, dropped


def to_batch(examples: Sequence[Example]) -> TrainBatch:
    """Collate examples into a batch, one row per example."""
    return TrainBatch.from_tokens([(example.prompt_ids, example.response_ids) for example in examples])
