"""Context length: RoPE scaling, and the check against the model's positions."""

from typing import Any

from openr1.config.sections import ModelConfig
from openr1.data.model_folder import read_text_config
from openr1.errors import ConfigError

FAR_LAYERS = "full_attention"
"""Of models that have other RoPE parameters for each type of layer: those layers that attend to distant tokens."""


def rope_scaling_overrides(model: ModelConfig) -> dict[str, Any]:
    """Overrides of the model's config.json for `model.rope_scaling`, used by both the trainer and the engines.

    Where types of layers have parameters of their own, those with full attention are scaled; the others never see
    tokens farther away than their window.

    Raises:
        ConfigError: Scaling would have no effect, or the model scales its positions already.
    """
    if model.rope_scaling is None:
        return {}
    config = read_text_config(model.path)
    trained = config.max_position_embeddings
    scaling = model.rope_scaling.model_dump() | {"original_max_position_embeddings": trained}
    parameters = config.to_dict().get("rope_parameters") or {}
    by_layer = FAR_LAYERS in parameters
    scaled = parameters[FAR_LAYERS] if by_layer else parameters
    kind = scaled.get("rope_type")
    if kind is None:
        raise ConfigError(
            f"model.rope_scaling has no effect on {model.path}: a {config.model_type} has no rotary positions that are "
            "the same in all layers with full attention; leave it out"
        )
    if kind != "default":
        raise ConfigError(
            f"model.rope_scaling would replace the scaling that {model.path} has ({kind}, factor "
            f"{scaled.get('factor')}); leave it out, or change rope_parameters in its config.json"
        )
    scaled = {**scaled, **scaling}
    return {
        "rope_parameters": {**parameters, FAR_LAYERS: scaled} if by_layer else scaled,
        "max_position_embeddings": int(trained * model.rope_scaling.factor),
    }


def check_context_length(model: ModelConfig, longest: int) -> None:
    """Check that the model supports sequences of `longest` tokens. Beyond its positions it outputs nonsense or crashes.

    Raises:
        ConfigError: `longest` exceeds the number of positions.
    """
    trained = read_text_config(model.path).max_position_embeddings
    positions = rope_scaling_overrides(model).get("max_position_embeddings", trained)
    if longest > positions:
        raise ConfigError(
            f"sequences may have {longest} tokens, but {model.path} has {positions} positions; lower the limits, or "
            f"set --model.rope_scaling.factor {-(-longest // trained)}"
        )
