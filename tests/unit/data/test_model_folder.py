"""The small files of a model folder: what cannot be trained or exported is refused by them alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, GenerationConfig

from openr1.config.sections import ModelConfig
from openr1.data.model_folder import (
    check_trainable,
    export_generation_config,
    read_text_config,
)
from openr1.data.weight_files import INDEX, check_weights
from openr1.errors import ConfigError, MissingError
from openr1.workers.model import load_causal_lm


@pytest.fixture
def folder(tiny_model: Callable[[bool], Path], tmp_path: Path) -> Path:
    """A copy of the tiny model, to change."""
    return Path(shutil.copytree(tiny_model(True), tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file, or take them out (None)."""
    changed = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


def written(config: GenerationConfig, folder: Path) -> dict[str, Any]:
    """What transformers writes of it, which is where it refuses."""
    config.save_pretrained(folder)
    values: dict[str, Any] = json.loads((folder / "generation_config.json").read_text())
    return values


def test_sampling_without_do_sample_is_kept(folder: Path, tmp_path: Path) -> None:
    """Catches Vicuna's generation config, which transformers reads and refuses to write: after the whole training."""
    change(folder / "generation_config.json", temperature=0.6, top_p=0.9)
    values = written(export_generation_config(folder, [2]), tmp_path / "out")
    assert (values["do_sample"], values["temperature"], values["top_p"], values["eos_token_id"]) == (True, 0.6, 0.9, 2)


def test_greedy_stays_greedy(folder: Path, tmp_path: Path) -> None:
    """Catches a repair that makes a model sample whose config says that it does not."""
    change(folder / "generation_config.json", temperature=0.6, top_k=20, do_sample=False)
    values = written(export_generation_config(folder, [2]), tmp_path / "out")
    assert values["do_sample"] is False
    assert not {"temperature", "top_k"} & values.keys()


def test_a_model_with_no_generation_config(folder: Path, tmp_path: Path) -> None:
    """Catches older models, whose config.json holds the sampling parameters."""
    (folder / "generation_config.json").unlink()
    change(folder / "config.json", temperature=0.7)
    values = written(export_generation_config(folder, [2]), tmp_path / "out")
    assert (values["do_sample"], values["temperature"], values["eos_token_id"]) == (True, 0.7, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length_penalty": 2.0}, "could not be saved with it: .length_penalty."),
        ({"num_return_sequences": 3}, "cannot be used: .*num_return_sequences"),
    ],
)
def test_what_cannot_be_repaired_is_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    """Catches a run that learns at its end that transformers does not write the config, and a message without why."""
    change(folder / "generation_config.json", **values)
    with pytest.raises(ConfigError, match=message) as caught:
        export_generation_config(folder, [2])
    assert "\n" not in str(caught.value)


def test_a_trained_model_stops_where_it_was_trained_to(folder: Path, tmp_path: Path) -> None:
    """Catches a base model whose export ends documents only: others generate beyond the turns that it was taught."""
    change(folder / "generation_config.json", eos_token_id=0)
    assert written(export_generation_config(folder, [2, 0]), tmp_path / "out")["eos_token_id"] == [2, 0]
    change(folder / "generation_config.json", eos_token_id=[7, 2])
    assert written(export_generation_config(folder, [2]), tmp_path / "out")["eos_token_id"] == [7, 2]


def test_composite_models(tmp_path: Path) -> None:
    """Catches Gemma 3 from 4B on: an AttributeError for the sizes of its text part, or a training of all its parts."""
    text = {"hidden_size": 64, "vocab_size": 512, "max_position_embeddings": 1024, "num_hidden_layers": 2}
    Gemma3Config(text_config=text).save_pretrained(tmp_path)
    config = read_text_config(tmp_path)
    assert (config.hidden_size, config.vocab_size, config.max_position_embeddings) == (64, 512, 1024)
    with pytest.raises(ConfigError, match=r"gemma3 has other parts .*\(gemma3_text\), which openr1 does not train"):
        check_trainable(tmp_path)


def test_a_config_that_needs_code_of_the_model(folder: Path) -> None:
    """Catches a traceback of transformers for a type that it does not know."""
    change(folder / "config.json", model_type="my_own")
    with pytest.raises(ConfigError, match=r"config\.json cannot be used: .*my_own") as caught:
        read_text_config(folder)
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing(folder: Path) -> None:
    """Catches a download that was interrupted: engines and ranks would start, and fail one after the other."""
    check_weights(folder)
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": shards}))
    (folder / "model.safetensors").rename(folder / shards["a"])
    with pytest.raises(MissingError, match=r"1 of 2 files of weights are missing, such as model-00002-of-00002"):
        check_weights(folder)
    for text in ("{}", "[]", "null", '{"weight_map": {"a": {}}}'):
        (folder / INDEX).write_text(text)
        with pytest.raises(ConfigError, match="not an index of weights"):
            check_weights(folder)
    (folder / INDEX).unlink()
    (folder / shards["a"]).unlink()
    with pytest.raises(MissingError, match=r"no weights there .*; finish the download"):
        check_weights(folder)


def test_a_file_of_weights_that_was_cut_off(folder: Path) -> None:
    """Catches a download that ended early: its header reads well, and ranks and engines fail after half a minute."""
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in (4, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(MissingError, match=r"model\.safetensors: damaged or cut off .*; get the file again"):
            check_weights(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vocab_size", 600, r"embed_tokens\.weight has the shape \[512, 64\], but config\.json says \[600, 64\]"),
        ("hidden_size", 32, r"embed_tokens\.weight has the shape \[512, 64\], but config\.json says \[512, 32\]"),
        ("num_hidden_layers", 9, r"weights of 2 layers, but config\.json says 9 \(num_hidden_layers\)"),
    ],
)
def test_weights_of_another_model(key: str, value: int, message: str, folder: Path) -> None:
    """Catches a config.json beside weights of a model of another size; layers that are missing would be random."""
    change(folder / "config.json", **{key: value})
    with pytest.raises(ConfigError, match=message):
        check_weights(folder)


def test_a_config_that_is_none(folder: Path) -> None:
    """Catches a traceback for a page of a website that was saved as config.json."""
    for text in ("<html>", "[]"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=r"config\.json"):
            check_weights(folder)


def test_a_model_of_which_a_weight_is_missing(folder: Path) -> None:
    """Catches weights that transformers makes up at random with no more than a warning: training would begin there."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
    del weights[name]
    save_file(weights, file, {"format": "pt"})
    check_weights(folder)  # Names of all weights are known only once the model is built.
    with pytest.raises(ConfigError, match=rf"1 weights are in none of its files, such as {name}"):
        load_causal_lm(ModelConfig(path=folder))
