"""LoRA: adding low-rank adapters to a model, reading them for engines, and merging them into weights for exports."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from openr1.config.sections import LoraConfig, ModelConfig
from openr1.errors import ConfigError
from openr1.workers.cpu_layers import adapt_to_cpu

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
        return (base.float() + self.update()).to(base.dtype)

    def update(self) -> Tensor:
        """What the adapter adds, in float32."""
        assert self.adapter is not None
        a, b, scaling = self.adapter
        return scaling * (b.data.float() @ a.data.float())


@dataclass(frozen=True)
class Factor:
    """A, or scaled B, of one layer, as engines take it.

    Attributes:
        name: `<layer>.lora_A.weight` or `<layer>.lora_B.weight`, the layer as in the model without adapters.
        parameter: A [rank, in] or B [out, rank].
        scaling: What the parameter is multiplied by.
    """

    name: str
    parameter: nn.Parameter
    scaling: float

    def value(self) -> Tensor:
        """The scaled parameter in its own data type; a copy."""
        return (self.scaling * self.parameter.data.float()).to(self.parameter.dtype, copy=True)


@dataclass
class KeptUpdate:
    """How much of what adapters add is left in merged weights once these are rounded to the model's data type.

    bfloat16 has 8 significant bits: what is less than half a unit in a weight's last one is lost.
    """

    kept: float = 0.0
    whole: float = 0.0

    def add(self, weight: Weight, merged: Tensor) -> None:
        """Count a weight with an adapter, which was merged into `merged`."""
        update = weight.update()
        self.kept += float(((merged.float() - weight.base.data.float()) * update).sum(dtype=torch.float64))
        self.whole += float(update.square().sum(dtype=torch.float64))

    @property
    def share(self) -> float:
        """Part of the update that the merged weights have in its direction: 1 if nothing is lost, or there is none."""
        return self.kept / self.whole if self.whole > 0 else 1.0


def add_adapters(lm: PreTrainedModel, config: LoraConfig) -> peft.PeftModel:
    """Freeze the model and add adapters to its linear layers, in place. B starts at 0, so the outputs are unchanged.

    Raises:
        ConfigError: See `check_targets`.
    """
    layers = check_targets(lm, config)
    # PEFT's own all-linear also takes the experts and routers of a mixture, which are no linear layers.
    targets = sorted(layers) if config.target_modules == "all-linear" else config.target_modules
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(lm, settings, autocast_adapter_dtype=False)
    adapt_to_cpu(adapted)
    return adapted


def check_targets(lm: PreTrainedModel, config: LoraConfig) -> set[str]:
    """Which layers get adapters, by the last part of their names, such as "q_proj".

    PEFT itself ignores a name that matches nothing beside others that do.

    Raises:
        ConfigError: A name in `target_modules` matches no layer, or one that is not linear, or the output head.
    """
    head = lm.get_output_embeddings()
    linear = {name for name, layer in lm.named_modules() if type(layer) is nn.Linear and layer is not head}
    known = {name.split(".")[-1] for name in linear}
    if config.target_modules == "all-linear":
        return known
    matched = set()
    for target in config.target_modules:
        layers = {name for name, _ in lm.named_modules() if f".{name}".endswith(f".{target}")}
        wrong = sorted(layers - linear)
        if wrong or not layers:
            what = f"{wrong[0]} is not a linear layer of the backbone" if wrong else f"no layer is called {target}"
            raise ConfigError(
                f"model.lora.target_modules {config.target_modules}: {what}; take some of {', '.join(sorted(known))}"
            )
        matched |= layers
    return {name.split(".")[-1] for name in matched}


def adapted_layers(settings: ModelConfig) -> set[str]:
    """`check_targets` for a model that is not loaded: only its config.json is read. Requires `settings.lora`."""
    assert settings.lora is not None
    config = AutoConfig.from_pretrained(settings.path, trust_remote_code=False)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return check_targets(lm, settings.lora)


def factors(lm: PreTrainedModel) -> Iterator[Factor]:
    """Yield A and B of every adapted layer: all that trains."""
    for name, layer in _layers(lm):
        yield Factor(f"{name}.lora_A.weight", layer.lora_A[ADAPTER].weight, 1.0)
        yield Factor(f"{name}.lora_B.weight", layer.lora_B[ADAPTER].weight, float(layer.scaling[ADAPTER]))


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
