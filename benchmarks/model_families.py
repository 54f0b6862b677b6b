"""Random two-layer models of the families that users train, small enough for any machine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from data.generate.tiny_model import build_tokenizer

MAX_POSITIONS = 512
INITIALIZER_RANGE = 0.05
"""Standard deviation of the weights: large enough that the models prefer some tokens to others."""


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: As in the table.
        stands_for: Published models of this architecture.
        config: Its configuration class in transformers.
        ties: Whether the output head is tied to the embeddings, in those published models.
        extra: What its configuration needs beside the sizes that all families share.
    """

    name: str
    stands_for: str
    config: Callable[..., PreTrainedConfig]
    ties: tuple[bool, ...]
    extra: dict[str, Any]


HEADS = {"head_dim": 32}
GEMMA = HEADS | {"query_pre_attn_scalar": 32, "sliding_window": 64}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}

FAMILIES = (
    Family("Qwen2", "Qwen2, Qwen2.5, R1-Distill-Qwen", transformers.Qwen2Config, (True, False), {}),
    Family("Qwen3", "Qwen3 (dense)", transformers.Qwen3Config, (True, False), HEADS),
    Family("Qwen3 MoE", "Qwen3-30B-A3B", transformers.Qwen3MoeConfig, (False,), HEADS | EXPERTS),
    Family("Llama", "Llama 2, SmolLM, SmolLM2", transformers.LlamaConfig, (True, False), {}),
    Family(
        "Llama 3",
        "Llama 3.1 to 3.3, R1-Distill-Llama",
        transformers.LlamaConfig,
        (True, False),
        {"rope_parameters": LLAMA3_ROPE},
    ),
    Family("SmolLM3", "SmolLM3", transformers.SmolLM3Config, (True,), {}),
    Family(
        "Mistral", "Mistral 7B, with a sliding window", transformers.MistralConfig, (False,), {"sliding_window": 64}
    ),
    Family("Gemma 2", "Gemma 2", transformers.Gemma2Config, (True,), GEMMA),
    Family("Gemma 3", "Gemma 3 270M and 1B (text)", transformers.Gemma3TextConfig, (True,), GEMMA),
    Family("OLMo 2", "OLMo 2", transformers.Olmo2Config, (False,), {}),
    Family("Phi-3", "Phi-3, Phi-4", transformers.Phi3Config, (False,), {}),
)


def family(name: str) -> Family:
    """The family of this name."""
    return next(one for one in FAMILIES if one.name == name)


def write_family(one: Family, tied: bool, folder: Path, seed: int = 0) -> None:
    """Write a random float32 model of the family, with the tokenizer of the shipped tiny model."""
    tokenizer = build_tokenizer()
    config = one.config(**_sizes(tokenizer), tie_word_embeddings=tied, **one.extra)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases and the weights of norms, which start alike, must differ for a swap to be seen.
            if parameter.dim() == 1:
                parameter += INITIALIZER_RANGE * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Two heads of size 32, the smallest that vLLM's attention takes on the CPU, that share keys and values."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": MAX_POSITIONS,
        "initializer_range": INITIALIZER_RANGE,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
