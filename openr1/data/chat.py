"""From rows to the text that a model is given: chat templates, assistant prefixes, and the tokens that end a turn."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from openr1.errors import ConfigError
from openr1.runtime.console import say_once

TODAY = date(2024, 7, 26)
"""The date in the prompts of templates that ask for today's. A prompt must be the same on the next day: for a resumed
run, and for an evaluation. This is the date that Llama 3's templates have where they cannot ask."""

Message = dict[str, str]

THINK = "<think>"
OPENED_THOUGHT = re.compile(r"<think>\s*\Z")
MARKER = "openr1"
"""Text of a response by which it is found in its turn."""


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


@dataclass(frozen=True)
class Start:
    """A rendered row, up to where its response begins.

    Attributes:
        messages: The conversation, as the chat template takes it.
        generation_prompt: What the chat template makes of it.
        opened: The `<think>` at the end of that, with the white space after it; empty if there is none.
        prefix: Text that the response continues.
    """

    messages: list[Message]
    generation_prompt: str
    opened: str
    prefix: str

    @property
    def text(self) -> str:
        """What the model is given: the prefix follows the generation prompt, whatever the template does to turns."""
        return self.generation_prompt + self.prefix


def render(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> tuple[str, str]:
    """Render a row with the chat template.

    Returns:
        The text that the model is given, which ends where its response begins, and the assistant prefix at the end of
        that text: a `<think>` opened by the chat template itself, followed by the prefix of the row. Graders put the
        prefix before the response.

    Raises:
        ConfigError: See `begin`.
    """
    start = begin(row, tokenizer, prompt_format)
    return start.text, start.opened + start.prefix


def begin(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> Start:
    """Render a row with the chat template; see `Start`.

    A system message stands at the beginning of the first user turn if the template has no system role.

    Raises:
        ConfigError: The chat template fails, or it opens a thought that the prefix opens again.
    """
    messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
    if prompt_format.system_prompt is not None and "prompt" in row:
        messages = [{"role": "system", "content": prompt_format.system_prompt}, *messages]
    prefix = row.get("prefix", prompt_format.assistant_prefix)
    messages, text = _render_messages(tokenizer, messages)
    found = OPENED_THOUGHT.search(text)
    if found and THINK in prefix.partition("</think>")[0]:
        raise ConfigError(
            f"the chat template ends the prompt with <think>, and the prefix {prefix!r} opens it again; leave <think> "
            "out of the row's `prefix` and of data.assistant_prefix"
        )
    return Start(messages, text, found.group() if found else "", prefix)


def _render_messages(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> tuple[list[Message], str]:
    """The messages as the template takes them, and their text. Templates refuse a system message, or leave it out."""
    system = messages[0]["content"].strip() if messages[0]["role"] == "system" else ""
    try:
        text = apply_template(tokenizer, messages, add_generation_prompt=True)
        if system in text:
            return messages, text
    except ConfigError:
        if not system:
            raise
    if len(messages) == 1 or messages[1]["role"] != "user":
        raise ConfigError("the chat template has no system role, and no user turn follows the system message")
    first = messages[1] | {"content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    folded = [first, *messages[2:]]
    text = apply_template(tokenizer, folded, add_generation_prompt=True)
    say_once("the chat template has no system role: system prompts begin the first user turn")
    return folded, text


def apply_template(tokenizer: PreTrainedTokenizerBase, messages: list[Message], **flags: bool) -> str:
    """Render messages.

    Raises:
        ConfigError: The chat template fails.
    """
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, strftime_now=TODAY.strftime, **flags))
    except (TemplateError, ValueError, TypeError) as error:
        raise ConfigError(f"the chat template refuses a prompt: {str(error).splitlines()[0]}") from error


def sample_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts with what a chat template writes around messages, as far as it takes these; none without a template."""
    user, answer = {"role": "user", "content": "-"}, {"role": "assistant", "content": "-"}
    chats = [[{"role": "system", "content": "-"}, user, answer], [user, answer], [user]]
    texts = []
    for chat in chats:
        with suppress(ConfigError):
            texts.append(apply_template(tokenizer, chat, add_generation_prompt=chat[-1] is user))
    return texts


@contextmanager
def naming(location: str) -> Iterator[None]:
    """Put the place of a row, `file:line`, before the errors of rendering it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{location}: {error}") from error


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Stop tokens: first the one that the chat template writes after an assistant turn, then the tokenizer's EOS.

    They often coincide. They differ for models such as base models, whose EOS ends a document rather than a turn.
    """
    turn = [{"role": "user", "content": "-"}, {"role": "assistant", "content": MARKER}]
    _, found, rest = apply_template(tokenizer, turn).rpartition(MARKER)
    after = tokenizer.encode(rest.strip(), add_special_tokens=False)[:1] if found else []
    # Some templates end a turn with ordinary text. Its tokens also occur inside responses, so they cannot stop one.
    added = tokenizer.added_tokens_decoder
    special = [token for token in after if token in added and added[token].special]
    return list(dict.fromkeys([*special, int(tokenizer.eos_token_id)]))
