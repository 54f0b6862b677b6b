"""The chat template of a run: built-in ones, files, arguments; the model's export renders as the run did."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from openr1.config.load import load_config
from openr1.config.sections import BuiltInTemplate
from openr1.config.sft import SftConfig
from openr1.data.chat import PromptFormat, end_token_ids, render
from openr1.data.template import BUILT_IN, ChatTemplate, read_template, run_template
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError, MissingError
from tests.templates import model_folder

USER = {"role": "user", "content": "2+3?"}
MODES = """\
{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant{% if effort is defined %} ({{ effort }}){% endif %}:
{%- if thinking is defined and thinking is false %} <think></think>{% endif %}{% endif %}"""
"""A template with two arguments."""


@pytest.fixture
def base(tiny_model: Callable[[bool], Path], tmp_path: Path) -> Path:
    """The tiny model's folder without a chat template, as base models are published."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_model(True), folder)
    (folder / "chat_template.jinja").unlink()
    return folder


def prompt(tokenizer: PreTrainedTokenizerBase, system: str | None = None, prefix: str = "") -> str:
    """What the model is given for one question."""
    return render({"prompt": "2+3?"}, tokenizer, PromptFormat(system, prefix))[0]


def test_names_of_built_in_templates() -> None:
    """Catches a template that no config can name, and a name without one."""
    assert get_args(BuiltInTemplate) == tuple(BUILT_IN)


def test_plain(base: Path) -> None:
    """Catches text around the prompt, a missing line break, a system prompt that is lost, and a turn without an end."""
    tokenizer = load_tokenizer(base, ChatTemplate("plain"))
    assert prompt(tokenizer) == "2+3?\n"
    assert prompt(tokenizer, "Be brief.", "<think>") == "Be brief.\n2+3?\n<think>"
    turn = [USER, {"role": "assistant", "content": "5"}]
    assert tokenizer.apply_chat_template(turn, tokenize=False) == f"2+3?\n5{tokenizer.eos_token}"
    assert end_token_ids(tokenizer) == [tokenizer.eos_token_id]


def test_r1_zero(base: Path) -> None:
    """Catches an instruction without the tags that are graded, roles that run together, and a turn without an end."""
    tokenizer = load_tokenizer(base, ChatTemplate("r1_zero"))
    introduction, _, rest = prompt(tokenizer).partition("\n")
    assert rest == "User: 2+3?\nAssistant:"
    tags = ("User", "Assistant", "<think>", "</think>", "<answer>", "</answer>")
    assert all(tag in introduction for tag in tags)
    assert prompt(tokenizer, "Be brief.") == f"{introduction}\nBe brief.\nUser: 2+3?\nAssistant:"
    turn = [USER, {"role": "assistant", "content": " 5"}, USER]
    text = f"{introduction}\nUser: 2+3?\nAssistant: 5{tokenizer.eos_token}\nUser: 2+3?\n"
    assert tokenizer.apply_chat_template(turn, tokenize=False) == text
    assert end_token_ids(tokenizer) == [tokenizer.eos_token_id]


@pytest.mark.parametrize(("kind", "start"), [("llama2", "<s>"), ("gemma2", "<bos>"), ("qwen3", ""), ("gptoss", "")])
def test_first_token_of_built_in_templates(kind: str, start: str, tmp_path: Path) -> None:
    """Catches a base model that never sees the token with which all of its texts began, or one that it never saw."""
    tokenizer = load_tokenizer(model_folder(kind, tmp_path), ChatTemplate("plain"))
    assert prompt(tokenizer) == f"{start}2+3?\n"


def test_a_file(base: Path, tmp_path: Path) -> None:
    """Catches a file that is not used, or whose mistakes show as tracebacks."""
    path = tmp_path / "t.jinja"
    path.write_text("{% for m in messages %}Q: {{ m.content }}\nA:{% endfor %}")
    assert prompt(load_tokenizer(base, read_template(path, None))) == "Q: 2+3?\nA:"
    path.write_text("Q:\n{% for m in messages %}")
    with pytest.raises(ConfigError, match="the chat template is not Jinja: line 2: "):
        load_tokenizer(base, read_template(path, None))
    path.write_bytes(b"Q: \xff")
    with pytest.raises(ConfigError, match=r"t\.jinja: not UTF-8 at byte 3"):
        read_template(path, None)
    with pytest.raises(MissingError, match=r"nope: No such file or directory; give a file, or plain or r1_zero"):
        read_template(tmp_path / "nope", None)
    with pytest.raises(ConfigError, match=r"no chat template.*data\.chat_template"):
        load_tokenizer(base)


def test_templates_run_in_a_sandbox(base: Path) -> None:
    """Catches a way of rendering in which the template of a model reaches Python, be it the class of a list."""
    with pytest.raises(
        ConfigError, match=r"the chat template refuses a prompt: access to attribute .__class__.* is unsafe"
    ):
        prompt(load_tokenizer(base, ChatTemplate("{{ messages.__class__.__name__ }}")))


def test_arguments(base: Path) -> None:
    """Catches an argument that is not passed, comes as another value, or cannot be overridden by who renders."""
    own = load_tokenizer(base, ChatTemplate(MODES))
    assert prompt(own) == "user: 2+3?\nassistant:"
    arguments = {"thinking": False, "effort": 'it\'s "{{ high }}" %}\n高'}
    tokenizer = load_tokenizer(base, ChatTemplate(MODES, arguments))
    assert prompt(tokenizer) == 'user: 2+3?\nassistant (it\'s "{{ high }}" %}\n高): <think></think>'
    other = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True, effort=1, thinking=True)
    assert other == "user: 2+3?\nassistant (1):"


@pytest.mark.parametrize("name", ["thinkin", "messages", "bos_token", "m", "loop"])
def test_argument_that_no_template_reads(name: str, base: Path) -> None:
    """Catches a typo that leaves the mode as it was, and a name that the template has a value for already."""
    with pytest.raises(ConfigError, match=rf"kwargs {name}: not read by the chat template; it reads effort, thinking"):
        load_tokenizer(base, ChatTemplate(MODES, {name: 1}))


def test_thinking_of_qwen3(tmp_path: Path) -> None:
    """Catches the argument that people need most not reaching the real template, and tags only transformers knows."""
    folder = model_folder("qwen3", tmp_path / "model")
    tokenizer = load_tokenizer(folder, ChatTemplate(None, {"enable_thinking": False}))
    assert prompt(tokenizer).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    marked = "{% generation %}{{ x }}{% endgeneration %}{% for m in messages %}{% continue %}{% endfor %}"
    assert prompt(load_tokenizer(folder, ChatTemplate(marked, {"x": 5}))) == "5"


def test_a_saved_tokenizer_renders_the_same(base: Path, tmp_path: Path) -> None:
    """Catches an export that is asked otherwise than it was trained, and a second choice that the first one hides."""
    saved = tmp_path / "saved"
    load_tokenizer(base, ChatTemplate(MODES, {"effort": "low"})).save_pretrained(saved)
    shutil.copy(base / "config.json", saved)
    assert prompt(load_tokenizer(saved)) == "user: 2+3?\nassistant (low):"
    assert prompt(AutoTokenizer.from_pretrained(saved)) == "user: 2+3?\nassistant (low):"
    assert prompt(load_tokenizer(saved, ChatTemplate(None, {"effort": "high"}))) == "user: 2+3?\nassistant (high):"


def test_keys_of_a_run(tmp_path: Path) -> None:
    """Catches a name that is taken for a file, a file for a name, and arguments that overrides cannot set."""
    path = tmp_path / "sft.yaml"
    values = {"run": {"name": "a"}, "model": {"path": "m"}, "data": {"train": "t", "chat_template": "plain"}}
    path.write_text(json.dumps(values))
    assert run_template(load_config(SftConfig, path, [])) == ChatTemplate("plain")
    (tmp_path / "own.jinja").write_text("text")
    words = [
        "--data.chat_template",
        str(tmp_path / "own.jinja"),
        "--data.chat_template_kwargs.enable_thinking",
        "false",
    ]
    assert run_template(load_config(SftConfig, path, words)) == ChatTemplate("text", {"enable_thinking": False})
    with pytest.raises(ConfigError, match="chat_template_kwargs"):
        load_config(SftConfig, path, ["--data.chat_template_kwargs", "{a-b: 1}"])
