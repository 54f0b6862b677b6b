"""Adapters inside a vLLM worker: what a push brings to an engine of a LoRA policy, instead of full weights.

Engines with merged weights would round them to the model's data type, and an update of less than half the spacing of
bfloat16 would be lost. vLLM's LoRA keeps A and B apart from the weights, as the trainer does.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper

from openr1.errors import WeightSyncError

if TYPE_CHECKING:
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.model_executor.models.utils import WeightsMapper


class Adapters(nn.Module):
    """Stands in for the model in a weight transfer: it takes A and B of all adapted layers, with any transport.

    It has no layers of its own, so that what a transfer does with the layers of a model does nothing.
    """

    def __init__(self, manager: "LoRAModelManager", adapter_id: int) -> None:
        """Take vLLM's manager of a worker's adapters, and the number that requests name."""
        super().__init__()
        self._manager = manager
        self._adapter_id = adapter_id
        self._received: dict[str, Tensor] = {}

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Keep tensors until all are there: A as `<layer>.lora_A.weight` and scaled B as `<layer>.lora_B.weight`."""
        # What a transfer yields may be a view of a buffer or a file that is gone afterwards.
        self._received |= {name: tensor.to("cpu", copy=True) for name, tensor in weights}

    def discard(self) -> None:
        """Forget what was received: the push was given up."""
        self._received = {}

    def begin(self) -> None:
        """Put adapters of zero into service."""
        # Made for vLLM's trial runs. It refuses adapters that have no layer.
        self._install(self._manager.create_dummy_lora(self._adapter_id, 1, {}))

    def put_into_service(self) -> None:
        """Replace the adapters by what was received.

        Raises:
            WeightSyncError: The model of the engine has no such layer.
        """
        received, self._received = self._received, {}
        rank = max(tensor.shape[0] for name, tensor in received.items() if ".lora_A." in name)
        lora = LoRAModel.from_lora_tensors(
            self._adapter_id,
            received,
            # B is scaled already.
            PEFTHelper(r=rank, lora_alpha=rank, target_modules=[]),
            device="cpu",
            dtype=_dtype(self._manager),
            weights_mapper=_renaming(self._manager.model),
        )
        self._install(lora)

    def _install(self, lora: LoRAModel) -> None:
        self._manager.remove_adapter(self._adapter_id)
        # Joins the adapters of layers that vLLM has joined, such as q, k and v.
        self._manager.add_adapter(lora)
        unknown = sorted(lora.loras.keys() - self._manager.modules.keys())
        if unknown:
            raise WeightSyncError(
                f"{len(unknown)} layers with adapters are none of the engine's that can have some, such as {unknown[0]}"
            )
        self._manager.activate_adapter(self._adapter_id)


def _dtype(manager: "LoRAModelManager") -> torch.dtype:
    dtype = manager.lora_config.lora_dtype
    assert isinstance(dtype, torch.dtype)
    return dtype


def _renaming(model: nn.Module) -> "WeightsMapper | None":
    """How the names of layers differ between Hugging Face's model and vLLM's; None: not at all."""
    mapper: WeightsMapper | None = model.hf_to_vllm_mapper if hasattr(model, "hf_to_vllm_mapper") else None
    return None if mapper is None else mapper.get_rename_mapper()
