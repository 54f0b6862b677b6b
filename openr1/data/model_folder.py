"""The configuration of a model folder: config.json and generation_config.json."""

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig

from openr1.data.weight_files import NO_CONFIG
from openr1.errors import ConfigError, MissingError

SAMPLING_KEYS = ("temperature", "top_p", "min_p", "top_h", "typical_p", "top_k", "epsilon_cutoff", "eta_cutoff")
"""What transformers allows in a generation config only together with `do_sample`."""


def read_text_config(path: Path) -> PreTrainedConfig:
    """The language model's part of config.json: all of it, unless the model also reads images or sound.

    Raises:
        MissingError: There is no config.json.
        ConfigError: It is not one that transformers knows without running code of the model.
    """
    return _read_config(path).get_text_config(decoder=True)


def check_trainable(path: Path) -> None:
    """Refuse models whose language model is a part of a larger one, and those without PyTorch's attention.

    Of the former, training would load all parts, an adapter would be put on each, and an export would lack the files of
    the processor; and some are loaded without the other parts, under names of weights that the engines do not know.

    Raises:
        MissingError: There is no config.json.
        ConfigError: The model has several parts, or an attention that PyTorch's does not compute (gpt-oss).
    """
    config = _read_config(path)
    text = config.get_text_config(decoder=True)
    if text is not config:
        raise ConfigError(
            f"model.path {path}: a model of type {config.model_type} has other parts beside its language model "
            f"({text.model_type}), which openr1 does not train; give a folder with the language model alone"
        )
    architecture = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if architecture is not None and not architecture._supports_sdpa:
        raise ConfigError(
            f"model.path {path}: models of type {config.model_type} have an attention of their own, for which openr1's "
            "trainer has no kernel; they can be evaluated, not trained"
        )


def _read_config(path: Path) -> PreTrainedConfig:
    if not (path / "config.json").is_file():
        raise MissingError(NO_CONFIG.format(path))
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}/config.json cannot be used: {str(error).splitlines()[0]}") from error


def export_generation_config(path: Path, end_token_ids: Sequence[int]) -> GenerationConfig:
    """The generation config that goes with an exported model: the folder's own, in a form that transformers writes.

    transformers reads, but does not write, sampling parameters without `do_sample`. They are kept with `do_sample`
    true, unless it is false in the file: then they had no effect, and are left out. A model that was trained to end its
    turns with other tokens than its base has them as further end tokens.

    Args:
        path: The model folder that training starts from.
        end_token_ids: See `chat.end_token_ids`.

    Raises:
        ConfigError: transformers would not write it for another reason; the message gives it.
    """
    named = "generation_config.json"
    try:
        if (path / named).is_file():
            config = GenerationConfig.from_pretrained(path)
        else:
            named = "config.json"
            # The file itself: of a model's config, transformers leaves sampling parameters out.
            config = GenerationConfig.from_model_config(json.loads((path / named).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}/{named} cannot be used: {str(error).splitlines()[0]}") from error
    if config.do_sample is None and any(_is_set(config, key) for key in SAMPLING_KEYS):
        config.do_sample = True
    elif config.do_sample is False:
        for key in SAMPLING_KEYS:
            setattr(config, key, None)
    stops = config.eos_token_id
    listed = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    if not set(end_token_ids) <= set(listed):
        config.eos_token_id = list(dict.fromkeys([*end_token_ids, *listed]))
    try:
        config.validate(strict=True)
    except ValueError as error:
        reasons = [line.removeprefix("- ") for line in str(error).splitlines() if line.startswith("- ")]
        raise ConfigError(
            f"{path}/{named}: a trained model could not be saved with it: {(reasons or [str(error)])[0]}"
        ) from error
    return config


def _is_set(config: GenerationConfig, key: str) -> bool:
    return config.to_dict().get(key) is not None
