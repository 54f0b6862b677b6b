"""The chat template of a run: the model's own, a file, or a built-in one, with the user's arguments as its defaults.

The tokenizer holds the result, so engines, environments and the exported model render as training does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateSyntaxError, meta

from openr1.config.dpo import DpoConfig
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, MissingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILT_IN = {
    # Every message on lines of its own; a response ends with the tokenizer's end of text.
    "plain": """\
{% for message in messages %}
{{ message['content'] }}{{ eos_token if message['role'] == 'assistant' else '\n' }}
{%- endfor %}
""",
    # As base models were asked in DeepSeek-R1-Zero (arXiv:2501.12948); a system prompt follows the introduction.
    "r1_zero": """\
{{ 'This is a conversation between User and Assistant. User asks a question, and Assistant answers it. Assistant first \
thinks the question through, then gives User the answer. The thinking stands between <think> and </think>, and the \
answer after it between <answer> and </answer>: <think> thinking </think> <answer> answer </answer>.\n' }}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- 'Assistant:' + message['content'] + eos_token + '\n' }}
{%- elif message['role'] == 'user' %}
{{- 'User: ' + message['content'] + '\n' }}
{%- else %}
{{- message['content'] + '\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'Assistant:' }}
{%- endif %}
""",
}
"""Templates for base models, by their name in `data.chat_template`."""

GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"})
"""What transformers gives to every template, besides the special tokens: no arguments of the user."""

GENERATION_TAG = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
"""A tag that only transformers knows."""


@dataclass(frozen=True)
class ChatTemplate:
    """The template that a run chose.

    Attributes:
        source: Jinja text, or a name in `BUILT_IN`; None: the tokenizer's own.
        arguments: Values of variables that the template reads, such as `enable_thinking`; JSON values.
    """

    source: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


OWN_TEMPLATE = ChatTemplate()
"""The tokenizer's own template, without arguments."""


def read_template(chosen: str | Path | None, arguments: Mapping[str, Any] | None) -> ChatTemplate:
    """The template of `data.chat_template` and `data.chat_template_kwargs`.

    Args:
        chosen: A name in `BUILT_IN`, or a file with Jinja text; None: the tokenizer's own.
        arguments: See `ChatTemplate`; None: none.

    Raises:
        MissingError: The file cannot be read.
        ConfigError: It is not UTF-8.
    """
    if chosen is None or str(chosen) in BUILT_IN:
        return ChatTemplate(None if chosen is None else str(chosen), arguments or {})
    try:
        return ChatTemplate(Path(chosen).read_text(encoding="utf-8"), arguments or {})
    except OSError as error:
        names = " or ".join(BUILT_IN)
        raise MissingError(f"chat_template {chosen}: {error.strerror}; give a file, or {names}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"chat_template {chosen}: not UTF-8 at byte {error.start}") from error


def run_template(config: TrainConfig | SftConfig | DpoConfig) -> ChatTemplate:
    """The template that a run's configuration chooses; see `read_template`."""
    return read_template(config.data.chat_template, config.data.chat_template_kwargs)


def set_template(tokenizer: "PreTrainedTokenizerBase", template: ChatTemplate) -> None:
    """Put a template and its arguments into a tokenizer.

    The arguments become defaults of variables: who renders with other values still gets those. Without a choice the
    tokenizer stays as it is, with or without a template.

    Raises:
        ConfigError: The text is not a Jinja template, or an argument is given that it does not read.
    """
    if template == OWN_TEMPLATE:
        return
    text = _text_of(tokenizer, template)
    if text is None:
        return
    readable = _variables(text) - GIVEN - tokenizer.special_tokens_map.keys()
    unread = sorted(template.arguments.keys() - readable)
    if unread:
        known = f"it reads {', '.join(sorted(readable))}" if readable else "it reads no arguments"
        raise ConfigError(f"chat_template_kwargs {', '.join(unread)}: not read by the chat template; {known}")
    tokenizer.chat_template = "".join(_default(*item) for item in template.arguments.items()) + text


def _text_of(tokenizer: "PreTrainedTokenizerBase", template: ChatTemplate) -> str | None:
    if template.source in BUILT_IN:
        # What a tokenizer puts before every text, templates have to write: prompts are encoded without it.
        starts = tokenizer.encode("0")[0] == tokenizer.bos_token_id
        return ("{{ bos_token }}" if starts else "") + BUILT_IN[template.source]
    if template.source is None and tokenizer.chat_template is not None:
        return str(tokenizer.get_chat_template())
    return template.source


def _variables(text: str) -> set[str]:
    """Names that a template reads without having set them."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])  # nosec B701 # parses, and renders nothing
    try:
        parsed = environment.parse(GENERATION_TAG.sub("", text))
    except TemplateSyntaxError as error:
        raise ConfigError(f"the chat template is not Jinja: line {error.lineno}: {error.message}") from error
    return meta.find_undeclared_variables(parsed) - environment.globals.keys()


def _default(name: str, value: Any) -> str:
    """A statement that gives a variable a value where it has none; Python's spelling of JSON values is Jinja's."""
    return f"{{% set {name} = {name} if {name} is defined else {value!r} %}}\n"
