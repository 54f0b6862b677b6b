"""Responses that are given, for SFT and DPO: the token ids of what the model has to write after a prompt."""

import re
from collections import Counter
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from openr1.data.chat import MARKER, OPENED_THOUGHT, THINK, Start, apply_template, end_token_ids
from openr1.errors import ConfigError
from openr1.runtime.console import say

END_OF_THOUGHT = "</think>"
AROUND_TAGS = re.compile(rf"\s*({THINK}|{END_OF_THOUGHT})\s*")
EMPTY_THOUGHT = re.compile(rf"\A{THINK}\s*{END_OF_THOUGHT}\s*")
FIRST_TAG = re.compile(r"\s*(<[^<>]*>)")
ANCHORS = ("\n", ")", "0")
"""Text before a response that is encoded with it: no tokenizer joins all of these with what follows."""
SHOWN_CHARS = 60


class ResponseEncoder:
    """Encodes the responses of a dataset, and counts what it changes about them.

    A response is trained as it stands, with four exceptions. A `<think>` that the prompt opens already is not trained
    again. It ends with one end token, however many it has. What the chat template writes between the generation prompt
    and a response is trained before it: the channel of gpt-oss, the empty thought of Qwen3. And a response is refused
    whose turn the template would render with other text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """`tokenizer` has the chat template that renders the prompts."""
        self._tokenizer = tokenizer
        self._end, *others = end_token_ids(tokenizer)
        self._ends = tuple(str(token) for token in tokenizer.convert_ids_to_tokens([self._end, *others]))
        self._opening = opening_of_turns(tokenizer)
        tag = FIRST_TAG.match(self._opening)
        self._first_tag = tag[1] if tag and END_OF_THOUGHT not in self._opening else ""
        self._changes: Counter[str] = Counter()

    def encode(self, start: Start, response: str) -> list[int]:
        """Token ids of a response, with its end token.

        Raises:
            ConfigError: The chat template would render the finished turn otherwise, or its thought never ends.
        """
        body = self._without_end(self._without_opened_thought(start, response))
        opening = self._opening if self._needs_opening(start, response) else ""
        self._check(start, opening, body)
        if opening:
            self._changes[f"begin with {opening!r} now, as the chat template writes turns"] += 1
        return [*encode_after(self._tokenizer, opening + body), self._end]

    def report(self, path: Path) -> None:
        """Print how many responses were changed, and how; nothing if none was."""
        for change, count in self._changes.items():
            say(f"{path}: responses that {change}: {count}")

    def _without_opened_thought(self, start: Start, response: str) -> str:
        """The response without the `<think>`, or the whole prefix, that the prompt ends with already."""
        found = OPENED_THOUGHT.search(start.text)
        text = response.lstrip()
        repeated = [words for words in (start.prefix.strip(), THINK) if words and text.startswith(words)]
        if not found or not repeated:
            return response
        self._changes["began with a <think> that the prompt opens, which is trained once"] += 1
        return text.removeprefix(repeated[0]).removeprefix(found.group().removeprefix(THINK))

    def _without_end(self, response: str) -> str:
        text = response
        while text.rstrip().endswith(self._ends):
            text = text.rstrip()
            text = text[: -max(len(end) for end in self._ends if text.endswith(end))]
        if text != response:
            self._changes["had an end token of their own, and have one now"] += 1
        return text

    def _needs_opening(self, start: Start, response: str) -> bool:
        """Whether the turn begins with what the template writes: not if the row brings a beginning of its own."""
        if start.prefix or not self._opening:
            return False
        if END_OF_THOUGHT in self._opening:
            return THINK not in response and END_OF_THOUGHT not in response
        if self._first_tag:
            return not response.lstrip().startswith(self._first_tag)
        return not response.startswith(self._opening)

    def _check(self, start: Start, opening: str, body: str) -> None:
        """Compare the turn that is trained with the one that the template renders.

        White space at the ends of a turn and around the tags of a thought may differ. A template may leave out the
        thought of a finished turn, or what a prefix has before it.
        """
        turn = start.opened + start.prefix + opening + body
        if start.opened and END_OF_THOUGHT not in turn:
            raise ConfigError(
                f"the chat template ends the prompt with {THINK}, and the response has no {END_OF_THOUGHT}"
            )
        content = body if opening else turn
        if self._first_tag and content.lstrip().startswith(self._first_tag):
            # Templates with channels take no response that has them, so there is nothing to compare with.
            return
        before = start.generation_prompt.removesuffix(start.opened)
        finished = apply_template(self._tokenizer, [*start.messages, {"role": "assistant", "content": content}])
        rendered = finished.removeprefix(before)
        if start.prefix and THINK not in turn:
            # The prefix begins the turn, and so no empty thought does.
            rendered = EMPTY_THOUGHT.sub("", rendered)
        squeezed, allowed = _squeeze(rendered), [turn]
        if END_OF_THOUGHT in turn and not squeezed.startswith(THINK):
            allowed.append(turn.rpartition(END_OF_THOUGHT)[2])
        if THINK in start.prefix:
            allowed.append(turn[turn.index(THINK) :])
        if finished.startswith(before) and squeezed.startswith(tuple(map(_squeeze, allowed))):
            return
        raise ConfigError(
            f"the chat template would write {rendered[:SHOWN_CHARS]!r} for the turn that begins "
            f"{turn[:SHOWN_CHARS]!r}; write the response as the template does, or choose another data.chat_template"
        )


def _squeeze(text: str) -> str:
    """Text without the white space that templates add to turns and take off them."""
    return AROUND_TAGS.sub(r"\1", text.strip())


def has_unseen_opening(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether turns begin with special tokens that the model writes itself: these are no part of a response's text."""
    opening = opening_of_turns(tokenizer)
    ids = tokenizer.encode(opening, add_special_tokens=False)
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip() != opening.strip()


def opening_of_turns(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template writes between the generation prompt and a response, often nothing."""
    prompt = [{"role": "user", "content": "-"}]
    before = apply_template(tokenizer, prompt, add_generation_prompt=True)
    finished = apply_template(tokenizer, [*prompt, {"role": "assistant", "content": MARKER}])
    return finished.removeprefix(before).partition(MARKER)[0] if finished.startswith(before) else ""


def encode_after(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of text that follows other text.

    Tokenizers of the SentencePiece kind begin a text with a space; one that follows other text has none.
    """
    alone: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if not str(tokenizer.convert_ids_to_tokens(tokenizer.encode("0", add_special_tokens=False)[0])).startswith("▁"):
        return alone
    for anchor in ANCHORS:
        before = tokenizer.encode(anchor, add_special_tokens=False)
        both: list[int] = tokenizer.encode(anchor + text, add_special_tokens=False)
        if both[: len(before)] == before:
            return both[len(before) :]
    return alone
