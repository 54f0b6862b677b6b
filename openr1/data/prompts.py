"""Prompts: a JSONL dataset, rendered once with the chat template, drawn as an endless stream that can resume."""

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
    """Load the tokenizer of a model folder and check that it can do what training needs.

    Raises:
        MissingError: The folder is missing, or holds no model or no usable tokenizer.
        ConfigError: There is no chat template or no end token.
    """
    if not (model_path / "config.json").is_file():
        raise MissingError(f"model.path {model_path}: no config.json there; give a folder in Hugging Face format")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise MissingError(f"model.path {model_path}: no usable tokenizer: {str(error).splitlines()[0]}") from error
    if not tokenizer.encode("0", add_special_tokens=False):
        # Without its files, transformers makes an empty tokenizer that encodes everything to nothing.
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
    """Rows of a JSONL dataset, each with its place (`file:line`) for messages.

    Checks what every row must have: id, label, task (and `extra_strings`) as strings, and prompt or messages.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: It is empty, or a row is malformed; the message begins with file:line.
    """
    empty = True
    for place, row in read_objects(path):
        empty = False
        _check_row(row, place, REQUIRED_STRINGS + extra_strings)
        yield place, row
    if empty:
        raise ConfigError(f"{path}: no rows; data/README.md tells how to make some")


def _check_row(row: dict[str, Any], place: str, strings: tuple[str, ...]) -> None:
    for key in strings:
        if not isinstance(row.get(key), str):
            raise ConfigError(f"{place}: `{key}` must be a string, found {json.dumps(row.get(key))}")
    check_prompt(row, place)
    if not isinstance(row.get("meta", {}), dict):
        raise ConfigError(f"{place}: `meta` must be an object, found {json.dumps(row['meta'])}")


def check_prompt(row: dict[str, Any], place: str) -> None:
    """Check the columns that `render` reads.

    Raises:
        ConfigError: One is missing, or of another type.
    """
    if ("prompt" in row) == ("messages" in row):
        raise ConfigError(f"{place}: exactly one of `prompt` and `messages` must be given")
    if not isinstance(row.get("prompt", ""), str) or not _are_messages(row.get("messages", [EMPTY_MESSAGE])):
        raise ConfigError(f"{place}: `prompt` must be a string, `messages` a list of {{role, content}} strings")
    if not isinstance(row.get("prefix", ""), str):
        raise ConfigError(f"{place}: `prefix` must be a string, found {json.dumps(row['prefix'])}")


def _are_messages(value: object) -> bool:
    """Whether the value is a list, not empty, of objects with the strings role and content."""
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
    """What goes around the questions of a dataset, where a row does not say otherwise.

    `system_prompt` comes before rows with a `prompt`; rows with `messages` bring their own. `assistant_prefix` is text
    that every response goes on from, such as `<think>`; a row's own `prefix` takes its place.
    """

    system_prompt: str | None = None
    assistant_prefix: str = ""


def render(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> tuple[str, str]:
    """The row's prompt as the model sees it, up to where its response begins, and the prefix that it ends with.

    The prefix is what of the response is written already: a `<think>` that the chat template opens by itself, then the
    row's own prefix.

    Raises:
        ConfigError: The chat template does not leave the prefix as it is.
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
        # A template may strip it, or put something before it, such as an empty thought.
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
    """Tokens that end a response: first the one that the chat template puts after it, then the tokenizer's own.

    Often they are the same. Base models have templates that end a turn otherwise than a text.
    """
    marker = "openr1"
    turn = [{"role": "user", "content": "-"}, {"role": "assistant", "content": marker}]
    _, found, rest = str(tokenizer.apply_chat_template(turn, tokenize=False)).rpartition(marker)
    after = tokenizer.encode(rest.strip(), add_special_tokens=False)[:1] if found else []
    # A template may end a turn with plain text, which also stands within responses.
    added = tokenizer.added_tokens_decoder
    special = [token for token in after if token in added and added[token].special]
    return list(dict.fromkeys([*special, int(tokenizer.eos_token_id)]))


def load_prompts(
    path: Path, tokenizer: PreTrainedTokenizerBase, prompt_max_len: int, prompt_format: PromptFormat
) -> list[Prompt]:
    """Read, render and tokenize a dataset.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: A row is malformed, an id stands twice, or a prompt is longer than `prompt_max_len` tokens.
    """
    prompts: dict[str, Prompt] = {}
    for place, row in read_rows(path):
        text, prefix = render(row, tokenizer, prompt_format)
        token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if len(token_ids) > prompt_max_len:
            raise ConfigError(
                f"{place}: the prompt has {len(token_ids)} tokens, more than data.prompt_max_len {prompt_max_len}; "
                "raise the limit or remove the row (prompts are never cut)"
            )
        if row["id"] in prompts:
            raise ConfigError(f"{place}: id {row['id']!r} stands twice in the dataset")
        meta = row.get("meta", {})
        prompts[row["id"]] = Prompt(row["id"], text, token_ids, row["label"], row["task"], prefix, meta)
    return list(prompts.values())


class PromptStream:
    """Prompts without end: each epoch is a shuffle by (seed, epoch); the place in it is two numbers."""

    def __init__(self, prompts: list[Prompt], seed: int, skip: Callable[[str], bool] = lambda prompt_id: False) -> None:
        """Start at the beginning of epoch 0. A prompt whose id is to be skipped when its turn comes is passed over."""
        self._skip = skip
        self._prompts = prompts
        self._seed = seed
        self._epoch = 0
        self._cursor = 0
        self._order = self._shuffled()

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts, all different: a batch that the epoch's rest cannot fill starts the next epoch.

        Raises:
            DatasetExhausted: A whole epoch has fewer that are not passed over.
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
        """What `restore` needs to continue after the prompts taken so far."""
        return {"epoch": self._epoch, "cursor": self._cursor}

    def restore(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken; the dataset and seed must be the same."""
        if state["epoch"] != self._epoch:
            self._epoch = state["epoch"]
            self._order = self._shuffled()
        self._cursor = state["cursor"]

    def _shuffled(self) -> list[int]:
        return epoch_order(len(self._prompts), self._seed, self._epoch)
