"""Low-rank adapters: put into a model, and merged into full weights for whoever knows nothing of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import peft
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from openr1.config.sections import LoraConfig
from openr1.errors import ConfigError

ADAPTER = "default"


@dataclass(frozen=True)
class Weight:
    """One full weight of a model, by its name in the model without adapters.

    `adapter` is (A [rank, in], B [out, rank], scaling), whose product B @ A x scaling belongs on top.
    """

    name: str
    base: Any  # nn.Parameter, with more attributes under ZeRO 3
    adapter: tuple[nn.Parameter, nn.Parameter, float] | None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that the full weight is computed from."""
        return [self.base, *(self.adapter[:2] if self.adapter else ())]

    def merged(self) -> Tensor:
        """The full weight in the model's type; the sum is made in float32."""
        base: Tensor = self.base.data
        if self.adapter is None:
            return base
        a, b, scaling = self.adapter
        return (base.float() + scaling * (b.data.float() @ a.data.float())).to(base.dtype)


def add_adapters(lm: PreTrainedModel, config: LoraConfig) -> peft.PeftModel:
    """Freeze the model and give its linear layers adapters, in place; B starts at 0, so nothing changes yet.

    Raises:
        ConfigError: No layer has such a name, or one is not linear or is the head.
    """
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=config.target_modules, task_type="CAUSAL_LM"
    )
    head = lm.get_output_embeddings()
    try:
        adapted = peft.get_peft_model(lm, settings, autocast_adapter_dtype=False)
    except ValueError as error:
        raise ConfigError(f"model.lora.target_modules {config.target_modules}: {str(error).splitlines()[0]}") from error
    for name, layer in _layers(lm):
        if type(layer.base_layer) is not nn.Linear or layer.base_layer is head:
            raise ConfigError(f"model.lora.target_modules {config.target_modules}: {name} is not a linear layer inside")
    return adapted


def full_weights(lm: PreTrainedModel) -> Iterator[Weight]:
    """Every weight of the model as it is without adapters, tied ones once, under their first name."""
    adapters = {
        f"{name}.base_layer.weight": (
            layer.lora_A[ADAPTER].weight,
            layer.lora_B[ADAPTER].weight,
            float(layer.scaling[ADAPTER]),
        )
        for name, layer in _layers(lm)
    }
    for name, parameter in lm.named_parameters():
        if ".lora_A." not in name and ".lora_B." not in name:
            yield Weight(name.replace(".base_layer.", "."), parameter, adapters.get(name))


def _layers(lm: PreTrainedModel) -> Iterator[tuple[str, LoraLayer]]:
    return ((name, module) for name, module in lm.named_modules() if isinstance(module, LoraLayer))
