"""Context length: RoPE scaling, and the check against the model's positions."""

from typing import Any

from transformers import AutoConfig

from openr1.config.sections import ModelConfig
from openr1.errors import ConfigError


def rope_scaling_overrides(model: ModelConfig) -> dict[str, Any]:
    """Overrides of the model's config.json for `model.rope_scaling`, used by both the trainer and the engines."""
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
    """Check that the model supports sequences of `longest` tokens. Beyond its positions it outputs nonsense or crashes.

    Raises:
        ConfigError: `longest` exceeds the number of positions.
    """
    config = AutoConfig.from_pretrained(model.path, trust_remote_code=False)
    positions = rope_scaling_overrides(model).get("max_position_embeddings", config.max_position_embeddings)
    if longest > positions:
        raise ConfigError(
            f"sequences may have {longest} tokens, but {model.path} has {positions} positions; lower the limits, or "
            f"set --model.rope_scaling.factor {-(-longest // config.max_position_embeddings)}"
        )
