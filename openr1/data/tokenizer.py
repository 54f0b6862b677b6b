"""Tokenizers of model folders: the one that tokenizer.json describes, in every process and in every export."""

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from openr1.data.chat import sample_texts
from openr1.data.template import OWN_TEMPLATE, ChatTemplate, set_template
from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import write_whole

PLAIN_TEXT = "Hello world,\n  2 + 3 = 1234567.\n\n\tThe end"
"""A decoder must give this back, whatever language the vocabulary is for."""
PROBE = PLAIN_TEXT + " 让我们 é，。 \U0001f600"
"""What is encoded twice, by the loaded tokenizer and by tokenizer.json, together with the chat template's own text."""

GET_AGAIN = "get tokenizer.json and tokenizer_config.json again from where the model was published"


def load_tokenizer(model_path: Path, template: ChatTemplate = OWN_TEMPLATE) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder, with the chat template of a run, and check that training can use it.

    transformers chooses a class by the model's type and by the name in tokenizer_config.json. Some of these classes
    replace parts of tokenizer.json (huggingface/transformers#45488): a byte-level vocabulary then loses all spaces, or
    digits are split otherwise than in pretraining. What encodes or decodes otherwise than tokenizer.json is therefore
    loaded again, without a class of its own, and refused if that differs, too.

    Raises:
        MissingError: The folder is missing, or contains no model or no usable tokenizer.
        ConfigError: The tokenizer has no chat template or no end token, or does not give back the text that it encodes;
            or the template cannot be used.
    """
    if not (model_path / "config.json").is_file():
        raise MissingError(f"model.path {model_path}: no config.json there; give a folder in Hugging Face format")
    tokenizer = _load(AutoTokenizer.from_pretrained, model_path)
    if not tokenizer.encode("0", add_special_tokens=False):
        # If the vocabulary files are missing, transformers builds an empty tokenizer that encodes every text to [].
        raise MissingError(f"model.path {model_path}: the tokenizer has no vocabulary; is tokenizer.json missing?")
    set_template(tokenizer, template)
    path = model_path / "tokenizer.json"
    raw = Tokenizer.from_file(str(path)) if path.is_file() else None
    if raw is not None and _differs(tokenizer, raw):
        loaded_as = type(tokenizer).__name__
        tokenizer = _load(PreTrainedTokenizerFast.from_pretrained, model_path)
        set_template(tokenizer, template)
        if _differs(tokenizer, raw):
            raise ConfigError(
                f"model.path {model_path}: the tokenizer ({loaded_as}) encodes text otherwise than tokenizer.json "
                f"itself; {GET_AGAIN}"
            )
    _check_usable(tokenizer, model_path)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer so that other programs load it with the same ids."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    if values["tokenizer_class"] == "TokenizersBackend":
        # The same class under the name that transformers 4 knows, too.
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _load(load: Callable[..., PreTrainedTokenizerBase], model_path: Path) -> PreTrainedTokenizerBase:
    try:
        return load(model_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise MissingError(f"model.path {model_path}: no usable tokenizer: {str(error).splitlines()[0]}") from error


def _differs(tokenizer: PreTrainedTokenizerBase, raw: Tokenizer) -> bool:
    """Whether it encodes or decodes a probe otherwise than tokenizer.json (`raw`)."""
    # tokenizer_config.json may add tokens, or change how they match.
    added = tokenizer.added_tokens_decoder
    raw.add_tokens([added[token] for token in sorted(added)])
    for text in (PROBE, *sample_texts(tokenizer)):
        expected = raw.encode(text, add_special_tokens=False).ids
        if tokenizer.encode(text, add_special_tokens=False) != expected:
            return True
        if tokenizer.decode(expected, clean_up_tokenization_spaces=False) != raw.decode(
            expected, skip_special_tokens=False
        ):
            return True
    return False


def _check_usable(tokenizer: PreTrainedTokenizerBase, model_path: Path) -> None:
    ids = tokenizer.encode(PLAIN_TEXT, add_special_tokens=False)
    decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if decoded != PLAIN_TEXT:
        raise ConfigError(f"model.path {model_path}: the tokenizer turns {PLAIN_TEXT!r} into {decoded!r}; {GET_AGAIN}")
    if tokenizer.chat_template is None:
        raise ConfigError(
            f"model.path {model_path}: the tokenizer has no chat template; add chat_template.jinja to the folder, or "
            "choose one with data.chat_template (plain and r1_zero are for base models)"
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model.path {model_path}: the tokenizer has no eos token; set eos_token in tokenizer_config.json"
        )
