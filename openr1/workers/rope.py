"""How long a model's texts may get."""

from typing import Any

from transformers import AutoConfig

from openr1.config.sections import ModelConfig
from openr1.errors import ConfigError


def rope_scaling_overrides(model: ModelConfig) -> dict[str, Any]:
    """What `model.rope_scaling` changes in the model's config.json, for trainer and engines alike."""
    if model.rope_scaling is None:
        return {}
    config = AutoConfig.from_pretrained(model.path, trust_remote_code=False)
    trained = config.max_position_embeddings
    scaling = model.rope_scaling.model_dump() | {"original_max_position_embeddings": trained}
    return {
        "rope_parameters": {**config.rope_parameters, **scaling},
        "max_position_embeddings": int(trained * model.rope_scaling.factor),
    }


def check_context_length(model: ModelConfig, longest: int) -> None:
    """Refuse texts that are longer than the model has positions for: it would answer nonsense, or crash.

    Raises:
        ConfigError: `longest`, in tokens, is too much.
    """
    config = AutoConfig.from_pretrained(model.path, trust_remote_code=False)
    positions = rope_scaling_overrides(model).get("max_position_embeddings", config.max_position_embeddings)
    if longest > positions:
        raise ConfigError(
            f"texts of {longest} tokens, and {model.path} has {positions} positions; shorten them, or set "
            f"--model.rope_scaling.factor {-(-longest // config.max_position_embeddings)}"
        )
