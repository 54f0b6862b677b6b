"""Tokenizers of public models: what is loaded must read and write text as tokenizer.json does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from openr1.data.tokenizer import load_tokenizer, save_tokenizer
from openr1.errors import ConfigError
from tests.real_tokenizers import real_tokenizer

TEXT = "Hello world,\n让我们 2 + 3 = 1234567"


def folder_with(tokenizer: Path, model_type: str, folder: Path) -> Path:
    """A model folder without weights: the files of a tokenizer, and a config.json of this type."""
    shutil.copytree(tokenizer, folder)
    config = {"model_type": model_type, "vocab_size": 512, "transformers_version": "5.0.0"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def raw_ids(folder: Path, text: str) -> list[int]:
    """What tokenizer.json says by itself."""
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_deepseeks_tokenizer_in_distilled_models(model_type: str, tmp_path: Path) -> None:
    """Catches a class chosen by the model's type, and its broken pre-tokenizer in the tokenizer.json of a checkpoint.

    LlamaTokenizer loses spaces, line breaks and Chinese when encoding; Qwen2Tokenizer splits numbers digit by digit,
    where DeepSeek's vocabulary has groups of three. Loaded without openr1, a qwen2 has that class whatever the folder
    says; its text is right at least.
    """
    folder = folder_with(real_tokenizer("deepseek_v3"), model_type, tmp_path / "model")
    expected = raw_ids(folder, TEXT)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode(TEXT, add_special_tokens=False) == expected
    assert tokenizer.decode(expected) == TEXT
    assert "123" in [tokenizer.decode([token]) for token in expected]
    assert tokenizer.eos_token == "<｜end▁of▁sentence｜>"
    assert "<｜Assistant｜>" in tokenizer.chat_template
    export = tmp_path / "export"
    export.mkdir()
    shutil.copy(folder / "config.json", export)
    save_tokenizer(tokenizer, export)
    assert raw_ids(export, TEXT) == expected
    others = AutoTokenizer.from_pretrained(export)
    assert others.decode(others.encode(TEXT, add_special_tokens=False)) == TEXT
    assert (others.encode(TEXT, add_special_tokens=False) == expected) == (model_type != "qwen2")


@pytest.mark.parametrize(("name", "model_type"), [("qwen3", "qwen3"), ("llama3", "llama")])
def test_models_with_a_tokenizer_of_their_own(name: str, model_type: str, tmp_path: Path) -> None:
    """Catches a check that loads another way what was right, and an export that older readers cannot load.

    transformers 4, and programs around it, have no class `TokenizersBackend`, as Llama 3's is called now.
    """
    folder = folder_with(real_tokenizer(name), model_type, tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    assert type(tokenizer) is type(AutoTokenizer.from_pretrained(folder))
    assert tokenizer.encode(TEXT, add_special_tokens=False) == raw_ids(folder, TEXT)
    export = tmp_path / "export"
    export.mkdir()
    save_tokenizer(tokenizer, export)
    named = json.loads((export / "tokenizer_config.json").read_text())["tokenizer_class"]
    assert named == ("Qwen2Tokenizer" if name == "qwen3" else "PreTrainedTokenizerFast")


def test_a_tokenizer_that_loses_spaces_is_refused(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches a checkpoint that an earlier export has broken for good: tokenizer.json itself drops spaces."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model(True), folder)
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.save(path)
    config = folder / "tokenizer_config.json"
    # Qwen2Tokenizer would bring a pre-tokenizer of its own.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    model = folder / "config.json"
    model.write_text(json.dumps(json.loads(model.read_text()) | {"model_type": "llama"}))
    with pytest.raises(ConfigError, match=r"turns 'Hello world,.*' into 'Helloworld,2\+3=1234567\.Theend'"):
        load_tokenizer(folder)


def test_tokens_that_only_the_config_adds(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches a comparison that takes a token which tokenizer_config.json adds for a broken tokenizer."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model(True), folder)
    path = folder / "tokenizer_config.json"
    added = {"512": {"content": "<|turn|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False,
                     "single_word": False}}  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens_decoder": added}))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("<|turn|>" + template)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("<|turn|>", add_special_tokens=False) == [512]
