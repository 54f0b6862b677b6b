"""vLLM's own LoRA on an engine: base weights from the model's folder, under adapters that pushes bring."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

ADAPTER_ID = 1
"""vLLM's number of the only adapter: that of the policy."""


@dataclass(frozen=True)
class AdapterSettings:
    """Adapters of the policy whose responses an engine samples.

    Attributes:
        rank: Rank, at most 512.
        layers: Last part of the names of adapted layers in the Hugging Face model, such as "q_proj".
    """

    rank: int
    layers: tuple[str, ...]


def engine_arguments(adapters: AdapterSettings | None) -> dict[str, Any]:
    """Arguments of vLLM's engine; none without adapters."""
    if adapters is None:
        return {}
    from vllm.config.lora import MaxLoRARanks

    return {
        "enable_lora": True,
        "max_loras": 1,
        # Room for a few ranks only is possible; smaller adapters are filled up with zeros.
        "max_lora_rank": min(room for room in get_args(MaxLoRARanks) if room >= adapters.rank),
        # By default the head and the embeddings get room for adapters, too, which costs time for every token.
        "lora_target_modules": list(adapters.layers),
    }


def receive_adapters(llm: "LLM", adapters: AdapterSettings | None) -> "LoRARequest | None":
    """Have pushes bring adapters to this engine instead of full weights; they are zero until then.

    Returns:
        What every request has to name; None without adapters, when nothing is done.
    """
    if adapters is None:
        return None
    from vllm.lora.request import LoRARequest

    llm.collective_rpc("receive_adapters", args=(ADAPTER_ID,))
    # The path would be read if there were no such adapter.
    return LoRARequest("policy", ADAPTER_ID, "adapters-of-the-policy-come-by-pushes")
