"""Makes a bfloat16 model compute with float32 arithmetic, for CPUs without instructions for bfloat16."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from openr1.algorithms.bfloat16 import cpu_multiplies_bfloat16, linear_in_float32


def adapt_to_cpu(model: nn.Module) -> None:
    """Let linear layers and attention use float32 if there is neither a GPU nor a CPU that multiplies bfloat16.

    Weights, inputs and results of all layers stay bfloat16, as elsewhere. Layers whose forward pass has been replaced
    already, such as an output head in float32, are left as they are. May be called again after layers were added.
    """
    is_slow = not torch.cuda.is_available() and not cpu_multiplies_bfloat16()
    if is_slow:
        use_float32_arithmetic(model)
    # For the whole process, whose models are all on the same device.
    AttentionInterface.register("sdpa", attend_in_float32 if is_slow else sdpa_attention_forward)


def use_float32_arithmetic(model: nn.Module) -> None:
    """Replace the forward pass of all bfloat16 linear layers; see `adapt_to_cpu`."""
    for layer in model.modules():
        if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16 and "forward" not in vars(layer):
            vars(layer)["forward"] = _forward_of(layer)


def _forward_of(layer: nn.Linear) -> Any:
    # Weight and bias are read at each call: under ZeRO 3 they are there only then.
    return lambda inputs: linear_in_float32(inputs, layer.weight, layer.bias)


def attend_in_float32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The SDPA attention of transformers, of float32 copies; the result has the dtype of `query`."""
    copies = (tensor.float() for tensor in (query, key, value))
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    attended, _ = sdpa_attention_forward(module, *copies, attention_mask, **kwargs)
    return attended.to(query.dtype), None
