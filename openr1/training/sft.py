"""Supervised fine-tuning on the policy actors: negative log-likelihood of responses, in a plain loop."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedTokenizerBase

from openr1.algorithms.batch import TrainBatch
from openr1.config.fixed_data import SftConfig, SftDataConfig
from openr1.data.prompts import Wording, end_token_ids, read_rows, render
from openr1.errors import ConfigError


@dataclass(frozen=True)
class Example:
    """Tokens of one supervised row; the response ends with the end token."""

    prompt_ids: list[int]
    response_ids: list[int]


class SupervisedPolicy(Protocol):
    """The model that learns (`policy.group.PolicyGroup`)."""

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probs [B, T] under the current weights."""

    def supervised_update(self, batch: TrainBatch, z_loss_coef: float) -> dict[str, float]:
        """One optimizer step; `loss` is summed over response tokens."""


def load_examples(path: Path, tokenizer: PreTrainedTokenizerBase, data: SftDataConfig) -> tuple[list[Example], int]:
    """Read, render and tokenize supervised rows; also how many were dropped for their length.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: A row is malformed, or longer than `data.max_len` tokens where such rows are refused, or all are.
    """
    wording = Wording(data.system_prompt, data.assistant_prefix)
    end_token = end_token_ids(tokenizer)[0]
    examples = []
    dropped = 0
    for place, row in read_rows(path, extra_strings=("response",)):
        prompt_ids = tokenizer.encode(render(row, tokenizer, wording)[0], add_special_tokens=False)
        response_ids = [*tokenizer.encode(row["response"], add_special_tokens=False), end_token]
        length = len(prompt_ids) + len(response_ids)
        if length <= data.max_len:
            examples.append(Example(prompt_ids, response_ids))
        elif data.overlong == "drop":
            dropped += 1
        else:
            raise ConfigError(
                f"{place}: {length} tokens, more than data.max_len {data.max_len}; raise the limit, remove the row, or "
                "set data.overlong to drop"
            )
    if not examples:
        raise ConfigError(f"{path}: all {dropped} rows are longer than data.max_len {data.max_len}; raise the limit")
    return examples, dropped


def batches(examples: list[Example], config: SftConfig) -> Iterator[TrainBatch]:
    """What each optimizer step trains on, in order; the same config gives the same batches."""
    size = config.policy.train_batch_size
    for epoch in range(config.max_epochs):
        order = list(range(len(examples)))
        if config.data.shuffle:
            random.Random(f"{config.run.seed}/{epoch}").shuffle(order)
        for start in range(0, len(order), size):
            yield to_batch([examples[index] for index in order[start : start + size]])


def to_batch(examples: Sequence[Example]) -> TrainBatch:
    """Rows of one batch."""
    return TrainBatch.from_tokens([(example.prompt_ids, example.response_ids) for example in examples])


def train_step(policy: SupervisedPolicy, batch: TrainBatch, z_loss_coef: float) -> dict[str, float]:
    """One optimizer step; returns its metrics (loss in nats a response token)."""
    update = policy.supervised_update(batch, z_loss_coef)
    return {
        "sft/loss": update["loss"] / batch.num_response_tokens,
        "sft/tokens": sum(batch.lengths),
        "policy/grad_norm": update["grad_norm"],
        "policy/learning_rate": update["learning_rate"],
    }


def held_out_loss(policy: SupervisedPolicy, examples: Sequence[Example], size: int) -> float:
    """Mean negative log-likelihood over all response tokens, nats; `size` examples at a time."""
    total, tokens = 0.0, 0
    for start in range(0, len(examples), size):
        batch = to_batch(examples[start : start + size])
        total -= float(policy.log_probs(batch)[batch.response_mask].double().sum())
        tokens += batch.num_response_tokens
    return total / tokens
