"""The language model as the trainer sees it: tokens in, log-probs of response tokens out."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from openr1.algorithms.token_ops import TokenOutputs, chunk_size, response_outputs
from openr1.config import ModelConfig
from openr1.positions import position_overrides

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class TokenModel(nn.Module):
    """A causal language model whose forward pass gives log-probs, so that DeepSpeed wraps the whole computation."""

    def __init__(
        self, lm: PreTrainedModel, temperature: float, packing: bool = False, entropy_gradient: bool = False
    ) -> None:
        """Wrap `lm` (a Hugging Face causal model).

        Args:
            lm: The model.
            temperature: That of the sampling.
            packing: Compute no padding; the result is the same.
            entropy_gradient: Entropies have gradients.
        """
        super().__init__()
        self.lm = lm
        self.temperature = temperature
        self.packing = packing
        self.entropy_gradient = entropy_gradient
        self.chunk_tokens = chunk_size(lm.config.vocab_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> TokenOutputs:
        """Log-probs and more of response tokens; see `response_outputs`."""
        if self.packing:
            hidden = self._hidden_of_packed(input_ids, attention_mask)
        else:
            hidden = self.lm.base_model(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        head = self.lm.get_output_embeddings()
        return response_outputs(
            head, hidden, input_ids, response_mask, self.temperature, self.entropy_gradient, self.chunk_tokens
        )

    def _hidden_of_packed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [B, T, H] of all rows, computed in one row without padding; 0 at padding.

        Positions begin at 0 with each row, by which transformers tells the rows apart: none sees another.
        """
        positions = attention_mask.cumsum(-1) - 1
        packed = self.lm.base_model(
            input_ids[attention_mask][None], position_ids=positions[attention_mask][None], use_cache=False
        ).last_hidden_state[0]
        hidden: Tensor = packed.new_zeros(*input_ids.shape, packed.shape[-1])
        hidden[attention_mask] = packed
        return hidden


def hidden_size(settings: ModelConfig) -> int:
    """Size of the model's hidden states, by its config.json."""
    return int(AutoConfig.from_pretrained(settings.path, trust_remote_code=False).hidden_size)


def load_causal_lm(settings: ModelConfig) -> PreTrainedModel:
    """Load a Hugging Face causal model with SDPA attention; code that ships with a model is never run."""
    config = AutoConfig.from_pretrained(settings.path, trust_remote_code=False, **position_overrides(settings))
    lm = AutoModelForCausalLM.from_pretrained(
        settings.path,
        config=config,
        dtype=DTYPES[settings.dtype],
        attn_implementation="sdpa",
        trust_remote_code=False,
    )
    _compute_head_in_float32(lm)
    if settings.gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return lm


def _compute_head_in_float32(lm: PreTrainedModel) -> None:
    """Have the head give float32 logits, as the engine's does: rounded to bfloat16, the two would differ by more."""
    head = lm.get_output_embeddings()
    head.forward = lambda hidden: functional.linear(hidden.float(), head.weight.float())
