"""Rows under the tokenizers and chat templates of public models: what the model is given, and what it is trained on.

Expected texts were written down from what each template does to a turn; expected token ids are those that the
tokenizers library gives for the whole text at once.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from openr1.config.dpo import DpoDataConfig
from openr1.config.sft import SftDataConfig
from openr1.data.chat import PromptFormat, render
from openr1.data.examples import load_examples
from openr1.data.pairs import load_pairs
from openr1.data.prompts import load_prompts
from openr1.data.responses import encode_after, has_unseen_opening
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError
from openr1.runtime.console import say_once
from tests.templates import KINDS, THINKS_IN_PROMPT, model_folder

Load = Callable[[str], PreTrainedTokenizerBase]

QUESTION = "2+3?"
ANSWER = "It is 5."
THOUGHT = "<think>让我们\n2 + 3</think>\nIt is 5."

PROMPTS = {
    "qwen2_5": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n",
    "deepseek_v3": "<｜begin▁of▁sentence｜><｜User｜>2+3?<｜Assistant｜>",
    "gemma3": "<bos><start_of_turn>user\n2+3?<end_of_turn>\n<start_of_turn>model\n",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n2+3?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama3_1": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n2+3?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma2": "<bos><start_of_turn>user\n2+3?<end_of_turn>\n<start_of_turn>model\n",
    "llama2": "<s>[INST] 2+3? [/INST]",
    "gptoss": "<|start|>user<|message|>2+3?<|end|><|start|>assistant",
    "thinking": "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "distilled": "<｜begin▁of▁sentence｜><｜User｜>2+3?<｜Assistant｜><think>\n",
}
ENDS = {
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "deepseek_v3": "<｜end▁of▁sentence｜>",
    "gemma3": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "gemma2": "<end_of_turn>",
    "llama2": "</s>",
    "gptoss": "<|return|>",
    "thinking": "<|im_end|>",
    "distilled": "<｜end▁of▁sentence｜>",
}
OPENING = {"qwen3": "<think>\n\n</think>\n\n", "llama2": " ", "gptoss": "<|channel|>final<|message|>"}
"""What the template writes before a response without a thought, where it is anything."""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """The tokenizer of a kind of model, loaded as a run loads it."""
    loaded: dict[str, PreTrainedTokenizerBase] = {}

    def get(kind: str) -> PreTrainedTokenizerBase:
        if kind not in loaded:
            loaded[kind] = load_tokenizer(model_folder(kind, tmp_path_factory.mktemp(kind)))
        return loaded[kind]

    return get


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a whole text, by the tokenizers library alone."""
    ids: list[int] = library(tokenizer.name_or_path).encode(text, add_special_tokens=False).ids
    return ids


@functools.cache
def library(folder: str) -> Tokenizer:
    """The tokenizers library's own reading of a folder, which takes a second."""
    return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def write(folder: Path, **columns: Any) -> Path:
    """A file with one row."""
    row = {"id": "a", "prompt": QUESTION, "label": "5", "task": "math"} | columns
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return path


def train_on(tokenizer: PreTrainedTokenizerBase, folder: Path, response: str, **columns: Any) -> tuple[list[int], ...]:
    """Prompt and response ids of a supervised row, which a pair of such responses has, too."""
    path = write(folder, response=response, chosen=response, rejected=response.replace("5", "6"), **columns)
    (example,), _ = load_examples(path, tokenizer, SftDataConfig(train=path))
    (pair,), _ = load_pairs(path, tokenizer, DpoDataConfig(train=path))
    assert (pair.prompt_ids, pair.chosen_ids) == (example.prompt_ids, example.response_ids)
    chosen, rejected = (tokenizer.decode(ids) for ids in (pair.chosen_ids, pair.rejected_ids))
    assert rejected == chosen.replace("5", "6") != chosen
    return example.prompt_ids, example.response_ids


# Prompts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "<think>", "<think>\n", " <think>", "让我们逐步解决。\n<think>", "So: "])
def test_prompt_is_generation_prompt_and_prefix(kind: str, prefix: str, load: Load, tmp_path: Path) -> None:
    """Catches a prefix that is refused, trimmed, or put behind an empty thought, as templates do to finished turns."""
    if kind in THINKS_IN_PROMPT and "<think>" in prefix:
        with pytest.raises(ConfigError, match=r"rows\.jsonl:1: the chat template ends the prompt with <think>"):
            load_prompts(write(tmp_path, prefix=prefix), load(kind), 100, PromptFormat())
        return
    (prompt,) = load_prompts(write(tmp_path), load(kind), 100, PromptFormat(assistant_prefix=prefix))
    assert prompt.text == PROMPTS[kind] + prefix
    assert list(prompt.token_ids) == ids_of(load(kind), prompt.text)
    assert prompt.prefix == ("<think>\n" if kind in THINKS_IN_PROMPT else "") + prefix


@pytest.mark.parametrize("kind", KINDS)
def test_system_prompt(kind: str, load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a template without a system role that refuses every row, or one that drops the system prompt."""
    say_once.cache_clear()
    (prompt,) = load_prompts(write(tmp_path), load(kind), 100, PromptFormat("Be brief."))
    told = capsys.readouterr().out.count("no system role")
    if kind in ("gemma2", "llama2"):
        assert prompt.text == PROMPTS[kind].replace(QUESTION, f"Be brief.\n\n{QUESTION}")
        assert told == 1
    else:
        assert prompt.text.count("Be brief.") == 1
        assert prompt.text.index("Be brief.") < prompt.text.index(QUESTION)
        assert told == 0


def test_system_messages_of_rows(load: Load, tmp_path: Path) -> None:
    """Catches a row's own system message that is refused, in a template that leaves it out, and one without a user."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    expected = PROMPTS["gemma2"].replace(QUESTION, f"Be brief.\n\n{QUESTION}")
    assert render({"messages": messages}, load("gemma2"), PromptFormat())[0] == expected
    silent = load_tokenizer(model_folder("gemma2", tmp_path / "silent"))
    silent.chat_template = "{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}"
    assert render({"messages": messages}, silent, PromptFormat())[0] == f"[Be brief.\n\n{QUESTION}]"
    path = write(tmp_path, prompt=None, messages=messages[:1])
    row = json.loads(path.read_text())
    del row["prompt"]
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=r"rows\.jsonl:1: .*no user turn follows the system message"):
        load_prompts(path, load("gemma2"), 100, PromptFormat())


# Responses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["", "{end}", "{end}\n", "{end}{end}"])
def test_response_with_a_thought(kind: str, end: str, load: Load, tmp_path: Path) -> None:
    """Catches a <think> that is trained twice, an end token that is, and a space that SentencePiece adds."""
    tokenizer = load(kind)
    prompt_ids, response_ids = train_on(tokenizer, tmp_path, THOUGHT + end.replace("{end}", ENDS[kind]))
    body = THOUGHT.removeprefix("<think>") if kind in THINKS_IN_PROMPT else THOUGHT
    body = body if kind == "qwen3" else OPENING.get(kind, "") + body
    assert prompt_ids == ids_of(tokenizer, PROMPTS[kind])
    assert prompt_ids + response_ids == ids_of(tokenizer, PROMPTS[kind] + body + ENDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_response_without_a_thought(kind: str, load: Load, tmp_path: Path) -> None:
    """Catches a turn without the channel or empty thought that the template writes, and a thought without an end."""
    tokenizer = load(kind)
    if kind == "distilled":
        with pytest.raises(ConfigError, match=r"rows\.jsonl:1: .*the response has no </think>"):
            train_on(tokenizer, tmp_path, ANSWER)
        return
    prompt_ids, response_ids = train_on(tokenizer, tmp_path, ANSWER)
    assert prompt_ids == ids_of(tokenizer, PROMPTS[kind])
    if kind == "thinking":
        assert response_ids == ids_of(tokenizer, "\n</think>\n\n" + ANSWER + ENDS[kind])
    else:
        text = PROMPTS[kind] + OPENING.get(kind, "") + ANSWER + ENDS[kind]
        assert prompt_ids + response_ids == ids_of(tokenizer, text)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in THINKS_IN_PROMPT])
@pytest.mark.parametrize("prefix", ["<think>", "<think>\n", "让我们\n<think>"])
@pytest.mark.parametrize("repeated", ["", "<think>", "{prefix}"])
def test_response_after_a_prefix(kind: str, prefix: str, repeated: str, load: Load, tmp_path: Path) -> None:
    """Catches a prefix that is trained again where rows have whole responses, and white space that comes twice."""
    tokenizer = load(kind)
    response = repeated.replace("{prefix}", prefix) + "2 + 3</think>\nIt is 5."
    if kind == "gptoss":
        with pytest.raises(ConfigError, match=r"rows\.jsonl:1: the chat template would write '<\|channel\|>final"):
            train_on(tokenizer, tmp_path, response, prefix=prefix)
        return
    prompt_ids, response_ids = train_on(tokenizer, tmp_path, response, prefix=prefix)
    assert prompt_ids == ids_of(tokenizer, PROMPTS[kind] + prefix)
    assert prompt_ids + response_ids == ids_of(
        tokenizer, PROMPTS[kind] + prefix + "2 + 3</think>\nIt is 5." + ENDS[kind]
    )


@pytest.mark.parametrize("kind", ["thinking", "distilled"])
@pytest.mark.parametrize("response", ["<think>\n2 + 3\n</think>\n\nIt is 5.", "2 + 3\n</think>\n\nIt is 5."])
def test_opened_thought_with_its_line_break(kind: str, response: str, load: Load, tmp_path: Path) -> None:
    """Catches an empty line at the beginning of every thought: the prompt has the line break already."""
    _, response_ids = train_on(load(kind), tmp_path, response)
    assert response_ids == ids_of(load(kind), "2 + 3\n</think>\n\nIt is 5." + ENDS[kind])


def test_text_prefix_where_turns_have_thoughts(load: Load, tmp_path: Path) -> None:
    """Catches rows that are refused since Qwen3 would begin the finished turn with an empty thought, not the prefix."""
    prompt_ids, response_ids = train_on(load("qwen3"), tmp_path, "It is 5.", prefix="So: ")
    text = PROMPTS["qwen3"] + "So: It is 5.<|im_end|>"
    assert load("qwen3").decode(prompt_ids + response_ids) == text


def test_channels_of_a_row(load: Load, tmp_path: Path) -> None:
    """Catches a row with channels of its own that gets another before them, or is refused as the template would."""
    turn = "<|channel|>analysis<|message|>2 + 3<|end|><|start|>assistant<|channel|>final<|message|>It is 5."
    prompt_ids, response_ids = train_on(load("gptoss"), tmp_path, turn)
    assert prompt_ids + response_ids == ids_of(load("gptoss"), PROMPTS["gptoss"] + turn + "<|return|>")


@pytest.mark.parametrize("kind", ["gptoss", "qwen3", "llama2", "thinking"])
def test_opening_that_graders_do_not_see(kind: str, load: Load) -> None:
    """Catches a run on gpt-oss whose graders read "analysis" and "final" in responses, without a word."""
    assert has_unseen_opening(load(kind)) == (kind == "gptoss")


@pytest.mark.parametrize(
    ("kind", "response"),
    [
        ("qwen3", "2+3</think>It is 5."),
        ("qwen3", "2+3</think>"),
        ("qwen3", "<think>2+3"),
        ("thinking", "<think>2+3"),
        ("distilled", "<think>2+3"),
    ],
)
def test_turn_that_a_template_would_change(kind: str, response: str, load: Load, tmp_path: Path) -> None:
    """Catches a thought without a beginning or an end, which no template renders, so no later turn could show it."""
    with pytest.raises(ConfigError, match=r"rows\.jsonl:1: the chat template"):
        train_on(load(kind), tmp_path, response)


def test_changes_are_counted(load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches rows that are changed without a word, and a word where nothing was."""
    train_on(load("thinking"), tmp_path, THOUGHT + "<|im_end|>")
    lines = capsys.readouterr().out.splitlines()
    assert sum("began with a <think> that the prompt opens" in line for line in lines) == 2
    # One supervised row, then the two responses of a pair.
    assert [line[-3:] for line in lines if "end token" in line] == [": 1", ": 2"]
    train_on(load("qwen2_5"), tmp_path, THOUGHT)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["2+3", "\n2+3", " 2+3", "\n\n2", "", "让我们", "<think>"])
@pytest.mark.parametrize("kind", ["llama2", "gemma2", "llama3", "qwen3"])
def test_text_that_follows_text(kind: str, text: str, load: Load) -> None:
    """Catches the space that SentencePiece puts before a text, in the middle of one."""
    tokenizer = load(kind)
    # Nothing that the tokenizers join with the beginning of the text.
    before = "5" if text[:1].isalpha() else "A"
    assert ids_of(tokenizer, before) + encode_after(tokenizer, text) == ids_of(tokenizer, before + text)
