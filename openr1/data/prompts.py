"""Prompt datasets: JSONL rows rendered with the chat template, and an endless, resumable stream of them."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from openr1.data.order import epoch_order
from openr1.errors import ConfigError, DatasetExhausted, MissingError
from openr1.runtime.files import read_objects
from openr1.types import Prompt

REQUIRED_STRINGS = ("id", "label", "task")
OPENED_THOUGHT = re.compile(r"<think>\s*\Z")
EMPTY_MESSAGE = {"role": "", "content": ""}


def load_tokenizer(model_path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder and check that training can use it.

    Raises:
        MissingError: The folder is missing, or contains no model or no usable tokenizer.
        ConfigError: The tokenizer has no chat template or no end token.
    """
    if not (model_path / "config.json").is_file():
        raise MissingError(f"model.path {model_path}: no config.json there; give a folder in Hugging Face format")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise MissingError(f"model.path {model_path}: no usable tokenizer: {str(error).splitlines()[0]}") from error
    if not tokenizer.encode("0", add_special_tokens=False):
        # If the vocabulary files are missing, transformers builds an empty tokenizer that encodes every text to [].
        raise MissingError(f"model.path {model_path}: the tokenizer has no vocabulary; is tokenizer.json missing?")
    if tokenizer.chat_template is None:
        raise ConfigError(
            f"model.path {model_path}: the tokenizer has no chat template; add chat_template.jinja to the folder"
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model.path {model_path}: the tokenizer has no eos token; set eos_token in tokenizer_config.json"
        )
    return tokenizer


def read_rows(path: Path, extra_strings: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a JSONL dataset, each with its location (`file:line`) for messages.

    Every row is checked for the required columns: the strings id, label, task and `extra_strings`, and either prompt
    or messages.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: The file is empty, or a row is malformed; the message begins with file:line.
    """
    empty = True
    for location, row in read_objects(path):
        empty = False
        _check_row(row, location, REQUIRED_STRINGS + extra_strings)
        yield location, row
    if empty:
        raise ConfigError(f"{path}: no rows; see data/README.md for how to prepare a dataset")


def _check_row(row: dict[str, Any], location: str, strings: tuple[str, ...]) -> None:
    for key in strings:
        if not isinstance(row.get(key), str):
            raise ConfigError(f"{location}: `{key}` must be a string, found {json.dumps(row.get(key))}")
    check_prompt(row, location)
    if not isinstance(row.get("meta", {}), dict):
        raise ConfigError(f"{location}: `meta` must be an object, found {json.dumps(row['meta'])}")


def check_prompt(row: dict[str, Any], location: str) -> None:
    """Check the columns that `render` reads.

    Raises:
        ConfigError: A column is missing or has the wrong type.
    """
    if ("prompt" in row) == ("messages" in row):
        raise ConfigError(f"{location}: exactly one of `prompt` and `messages` must be given")
    if not isinstance(row.get("prompt", ""), str) or not _are_messages(row.get("messages", [EMPTY_MESSAGE])):
        raise ConfigError(f"{location}: `prompt` must be a string, `messages` a list of {{role, content}} strings")
    if not isinstance(row.get("prefix", ""), str):
        raise ConfigError(f"{location}: `prefix` must be a string, found {json.dumps(row['prefix'])}")


def _are_messages(value: object) -> bool:
    """Whether the value is a non-empty list of objects with the strings role and content."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict) and all(isinstance(message.get(key), str) for key in EMPTY_MESSAGE)
            for message in value
        )
    )


@dataclass(frozen=True)
class PromptFormat:
    """How the rows of a dataset are turned into chats.

    Attributes:
        system_prompt: System message for rows with a `prompt` column. Rows with `messages` contain their own.
        assistant_prefix: Text that every response continues, such as `<think>`. The `prefix` column of a row overrides
            it.
    """

    system_prompt: str | None = None
    assistant_prefix: str = ""


def render(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> tuple[str, str]:
    """Render a row with the chat template.

    Returns:
        The text that the model is given, which ends where its response begins, and the assistant prefix at the end of
        that text: a `<think>` opened by the chat template itself, followed by the prefix of the row. Graders put the
        prefix before the response.

    Raises:
        ConfigError: The chat template fails, or alters the prefix.
    """
    messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
    if prompt_format.system_prompt is not None and "prompt" in row:
        messages = [{"role": "system", "content": prompt_format.system_prompt}, *messages]
    prefix = row.get("prefix", prompt_format.assistant_prefix)
    start = _apply_template(tokenizer, messages, add_generation_prompt=True)
    text = start + prefix
    if prefix:
        messages = [*messages, {"role": "assistant", "content": prefix}]
        continued = _apply_template(tokenizer, messages, continue_final_message=True)
        # Templates may strip whitespace, or insert text before the prefix, such as an empty <think></think> block.
        if continued != text:
            raise ConfigError(
                f"the chat template changes the assistant prefix {prefix!r}: the prompt would end {continued[-60:]!r}"
            )
    opened = OPENED_THOUGHT.search(start)
    return text, (opened.group() if opened else "") + prefix


def _apply_template(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **flags: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **flags))
    except (TemplateError, ValueError) as error:
        raise ConfigError(f"the chat template refuses a prompt: {str(error).splitlines()[0]}") from error


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Stop tokens: first the one that the chat template writes after an assistant turn, then the tokenizer's EOS.

    They often coincide. They differ for models such as base models, whose EOS ends a document rather than a turn.
    """
    marker = "openr1"
    turn = [{"role": "user", "content": "-"}, {"role": "assistant", "content": marker}]
    _, found, rest = str(tokenizer.apply_chat_template(turn, tokenize=False)).rpartition(marker)
    after = tokenizer.encode(rest.strip(), add_special_tokens=False)[:1] if found else []
    # Some templates end a turn with ordinary text. Its tokens also occur inside responses, so they cannot stop one.
    added = tokenizer.added_tokens_decoder
    special = [token for token in after if token in added and added[token].special]
    return list(dict.fromkeys([*special, int(tokenizer.eos_token_id)]))


def load_prompts(
    path: Path, tokenizer: PreTrainedTokenizerBase, prompt_max_len: int, prompt_format: PromptFormat
) -> list[Prompt]:
    """Read, render and tokenize a dataset.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: A row is malformed, an id occurs twice, or a prompt is longer than `prompt_max_len` tokens.
    """
    prompts: dict[str, Prompt] = {}
    for location, row in read_rows(path):
        text, prefix = render(row, tokenizer, prompt_format)
        token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if len(token_ids) > prompt_max_len:
            raise ConfigError(
                f"{location}: the prompt has {len(token_ids)} tokens, more than data.prompt_max_len {prompt_max_len}; "
                "raise the limit or remove the row (prompts are never cut)"
            )
        if row["id"] in prompts:
            raise ConfigError(f"{location}: duplicate id {row['id']!r}; ids must be unique in a dataset")
        meta = row.get("meta", {})
        prompts[row["id"]] = Prompt(row["id"], text, token_ids, row["label"], row["task"], prefix, meta)
    return list(prompts.values())


class PromptStream:
    """Endless stream of prompts. Each epoch is shuffled by (seed, epoch), so two numbers describe the position."""

    def __init__(self, prompts: list[Prompt], seed: int, skip: Callable[[str], bool] = lambda prompt_id: False) -> None:
        """Start at the beginning of epoch 0.

        Args:
            prompts: The dataset.
            seed: Seed of the shuffles.
            skip: Called with a prompt's id when its turn comes; the prompt is skipped if it returns True.
        """
        self._skip = skip
        self._prompts = prompts
        self._seed = seed
        self._epoch = 0
        self._cursor = 0
        self._order = self._shuffled()

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts, all distinct.

        If the rest of the epoch has fewer than `count`, it is discarded and the batch is taken from the next epoch.

        Raises:
            DatasetExhausted: A whole epoch has fewer than `count` prompts that are not skipped.
        """
        taken: list[Prompt] = []
        first_epoch = self._epoch
        while len(taken) < count:
            if self._cursor == len(self._prompts):
                if self._epoch > first_epoch:
                    raise DatasetExhausted(
                        f"only {len(taken)} of {len(self._prompts)} prompts are not above data.max_pass_rate, "
                        f"and a step takes {count}; train on harder ones, or raise the limit"
                    )
                self._epoch += 1
                self._cursor = 0
                self._order = self._shuffled()
                taken = []
            prompt = self._prompts[self._order[self._cursor]]
            self._cursor += 1
            if not self._skip(prompt.id):
                taken.append(prompt)
        return taken

    def state(self) -> dict[str, int]:
        """Position after the prompts taken so far, for `restore`."""
        return {"epoch": self._epoch, "cursor": self._cursor}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a position returned by `state`. The dataset and seed must be the same."""
        if state["epoch"] != self._epoch:
            self._epoch = state["epoch"]
            self._order = self._shuffled()
        self._cursor = state["cursor"]

    def _shuffled(self) -> list[int]:
        return epoch_order(len(self._prompts), self._seed, self._epoch)
