"""LoRA: adding low-rank adapters to a model, and merging them into full weights for engines and exports."""

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
    """One full weight of a model.

    Attributes:
        name: Name in the model without adapters.
        base: The (frozen or trained) parameter.
        adapter: (A [rank, in], B [out, rank], scaling), whose product scaling x B @ A is added to `base`; None if the
            weight has no adapter.
    """

    name: str
    base: Any  # nn.Parameter, with more attributes under ZeRO 3
    adapter: tuple[nn.Parameter, nn.Parameter, float] | None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that the full weight is computed from."""
        return [self.base, *(self.adapter[:2] if self.adapter else ())]

    def merged(self) -> Tensor:
        """The full weight in the model's dtype. The sum is computed in float32."""
        base: Tensor = self.base.data
        if self.adapter is None:
            return base
        a, b, scaling = self.adapter
        return (base.float() + scaling * (b.data.float() @ a.data.float())).to(base.dtype)


def add_adapters(lm: PreTrainedModel, config: LoraConfig) -> peft.PeftModel:
    """Freeze the model and add adapters to its linear layers, in place. B starts at 0, so the outputs are unchanged.

    Raises:
        ConfigError: `target_modules` matches no layer, or a layer that is not linear, or the output head.
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
            raise ConfigError(
                f"model.lora.target_modules {config.target_modules}: {name} is not a linear layer of the backbone"
            )
    return adapted


def full_weights(lm: PreTrainedModel) -> Iterator[Weight]:
    """Yield every weight under its name in the model without adapters. Tied weights come once, under the first name."""
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
