"""Models of the training workers: a language model that returns log-probs, and a value model."""

import math
from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from openr1.algorithms.head import projection
from openr1.algorithms.token_ops import Chunking, Entropy, TokenOutputs, token_log_probs
from openr1.config.sections import ModelConfig
from openr1.data.model_folder import read_text_config
from openr1.errors import ConfigError
from openr1.packing.attention import PACKED_ROWS, attention_implementation
from openr1.packing.shared_prefixes import pack_rows
from openr1.workers.attention_choice import PACKED, choose_implementation
from openr1.workers.cpu_layers import adapt_to_cpu
from openr1.workers.rope import rope_scaling_overrides

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class LogProbModel(nn.Module):
    """A causal language model whose forward pass returns log-probs, so that DeepSpeed wraps the whole computation."""

    def __init__(self, lm: PreTrainedModel, temperature: float) -> None:
        """Wrap `lm` (from `load_causal_lm`).

        Args:
            lm: The model.
            temperature: Sampling temperature, by which logits are divided.
        """
        super().__init__()
        self.lm = lm
        self.temperature = temperature
        # As the device allows; tests choose less.
        self.chunks: Chunking | None = None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, entropy: Entropy = "none"
    ) -> TokenOutputs:
        """Log-probs, entropies and log-normalizers of response tokens; see `token_log_probs`."""
        hidden = hidden_states(self.lm.base_model, input_ids, attention_mask)
        head = self.lm.get_output_embeddings()
        return token_log_probs(head, hidden, input_ids, response_mask, self.temperature, entropy, self.chunks)


class ValueHead(nn.Linear):
    """Maps hidden states [N, H] to values [N, 1], 0 before training. Computed in float32 for any dtype of weights."""

    def __init__(self, hidden_size: int) -> None:
        """Initialize to zero for hidden states of size `hidden_size` (H)."""
        super().__init__(hidden_size, 1, bias=False)
        nn.init.zeros_(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values [N, 1]."""
        return functional.linear(hidden.float(), self.weight.float())


class ValueModel(nn.Module):
    """The backbone of a language model (without its output head) with a value head, for the critic."""

    def __init__(self, lm: PreTrainedModel) -> None:
        """Wrap the backbone of `lm`; its output head is not used."""
        super().__init__()
        self.backbone = lm.base_model
        self.head = ValueHead(lm.config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Tensor:
        """Values [B, T] (float32) of the states before response tokens, 0 elsewhere.

        The value of the state before token t is computed from the hidden state of token t - 1. If the mask is all
        False, the zeros still depend on the weights.
        """
        hidden = hidden_states(self.backbone, input_ids, attention_mask)
        values: Tensor = self.head(hidden[:, :-1][response_mask[:, 1:]])
        # Keeps the graph connected if the mask is empty, since every data-parallel rank must run a backward pass.
        zero = hidden[..., 0].float() * 0.0 + values.sum() * 0.0
        return zero.masked_scatter(response_mask, values.squeeze(-1))


def hidden_states(backbone: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states [B, T, H].

    A model that was loaded for packing computes them in one sequence without padding, in which rows do not attend to
    each other and tokens that they begin with in common occur once (`shared_prefixes`); at padding they are then 0.
    """
    if backbone.config._attn_implementation not in PACKED:
        output: Tensor = backbone(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return output
    rows = pack_rows(input_ids, attention_mask)
    packed = backbone(
        input_ids.flatten()[rows.kept][None], position_ids=rows.positions[None], rows=rows, use_cache=False
    ).last_hidden_state[0]
    hidden: Tensor = packed.new_zeros(input_ids.numel(), packed.shape[-1])
    hidden[rows.places] = rows.whole_rows(packed, 0)
    states: Tensor = hidden.unflatten(0, input_ids.shape)
    return states


def weights_bytes(settings: ModelConfig) -> int:
    """Size of a model's weights in memory, in its configured data type; 0 if the folder has no safetensors files."""
    elements = 0
    for path in sorted(settings.path.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            elements += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return elements * DTYPES[settings.dtype].itemsize


def hidden_size(settings: ModelConfig) -> int:
    """Hidden size of a model, from its config.json."""
    return int(read_text_config(settings.path).hidden_size)


def packs_rows(settings: ModelConfig) -> bool:
    """Whether rows of the model are packed, by its settings and its config.json."""
    return attention_implementation(read_text_config(settings.path), settings.packing) == PACKED_ROWS


def load_causal_lm(settings: ModelConfig) -> PreTrainedModel:
    """Load a Hugging Face causal language model. Code that ships with a model is never run."""
    config = AutoConfig.from_pretrained(settings.path, trust_remote_code=False, **rope_scaling_overrides(settings))
    lm, loaded = AutoModelForCausalLM.from_pretrained(
        settings.path,
        config=config,
        dtype=DTYPES[settings.dtype],
        attn_implementation=choose_implementation(attention_implementation(config, settings.packing), settings),
        trust_remote_code=False,
        output_loading_info=True,
    )
    # transformers makes them up at random, with a warning.
    if missing := sorted(loaded["missing_keys"]):
        raise ConfigError(
            f"model.path {settings.path}: {len(missing)} weights are in none of its files, such as {missing[0]}"
        )
    compute_head_in_float32(lm)
    adapt_to_cpu(lm)
    if settings.gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return lm


def compute_head_in_float32(lm: PreTrainedModel) -> None:
    """Make the output head compute float32 logits, as the engine does. bfloat16 rounding would increase the mismatch.

    The head's `forward` also accepts the computation to apply (`token_ops.Head`), which can process the tokens in
    chunks within one call. Under ZeRO 3 each call of a layer gathers its weights on all ranks, so every rank must make
    the same number of calls, however many chunks it has.
    """
    head = lm.get_output_embeddings()

    def forward(hidden: Tensor, compute: Callable[..., Any] = _logits) -> Any:
        return compute(hidden, head.weight, head.bias)

    head.forward = forward


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits [..., V] (float32) of hidden states [..., H]."""
    return projection(weight, bias)(hidden)
