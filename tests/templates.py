"""Model folders with a real tokenizer, and chat templates that behave as those of public models do.

Some packages of `real_tokenizers` have no template, and some public models' templates are in none: they are written
here anew, as short as what they do to a conversation allows. The other templates are the packages' own.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.real_tokenizers import real_tokenizer

GEMMA2 = """\
{{ bos_token }}{% for m in messages %}
{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
"""
"""No system role; texts are trimmed."""

LLAMA2 = """\
{% for m in messages %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}
{%- else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}
{% endfor %}
"""
"""No system role and no generation prompt; a response begins with a space."""

CHANNELS = """\
{% for m in messages %}
{% if m.role == 'assistant' %}
{% if '<|channel|>' in m.content %}{{ raise_exception('channels belong into fields of their own') }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}
{%- else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}
{% if reasoning_effort is defined %}{{ '' }}{% endif %}
"""
"""gpt-oss: a turn has a channel, which the generation prompt leaves to the model."""

DISTILLED = """\
{{ bos_token }}{% for m in messages %}
{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% elif m.role == 'assistant' %}
{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}
{%- else %}{{ m.content }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}
"""
"""DeepSeek-R1's distilled models: opens the thought, and leaves it out of finished turns."""

THINKING = """\
{% for m in messages %}
{% if m.role == 'assistant' %}{% set parts = m.content.split('</think>') %}
{% set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' %}
{{- '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' + parts[-1].lstrip('\n') + '<|im_end|>\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}
"""
"""Qwen3-Thinking-2507 and Qwen3.5: opens the thought, and every finished turn has one."""

KINDS = {
    "qwen2_5": ("qwen2_5", None),
    "qwen3": ("qwen3", None),
    "deepseek_v3": ("deepseek_v3", None),
    "gemma3": ("gemma3", None),
    "llama3": ("llama3", None),
    "llama3_1": ("llama3_1", None),
    "gemma2": ("gemma2", GEMMA2),
    "llama2": ("llama2", LLAMA2),
    "gptoss": ("gptoss", CHANNELS),
    "thinking": ("qwen3", THINKING),
    "distilled": ("deepseek_v3", DISTILLED),
}
"""Tokenizer, and template where it is one of this file."""
THINKS_IN_PROMPT = ("thinking", "distilled")
"""Kinds whose generation prompt opens a thought."""


MODEL_TYPES = {
    "qwen2_5": "qwen2",
    "qwen3": "qwen3",
    "deepseek_v3": "deepseek_v3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gptoss": "gpt_oss",
    "llama2": "llama",
    "llama3": "llama",
    "llama3_1": "llama",
}
"""Of the models whose tokenizers these are: transformers chooses a tokenizer's class by it."""


def model_folder(kind: str, folder: Path, **config: Any) -> Path:
    """A model folder of a kind in `KINDS`, without weights; skips the test where its tokenizer cannot be had."""
    name, template = KINDS[kind]
    shutil.copytree(real_tokenizer(name), folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES[name], **config}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder
