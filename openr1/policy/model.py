"""The language model as the trainer sees it: tokens in, log-probs of response tokens out."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from openr1.algorithms.token_ops import TokenOutputs, response_outputs

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class TokenModel(nn.Module):
    """A causal language model whose forward pass gives log-probs, so that DeepSpeed wraps the whole computation."""

    def __init__(self, lm: PreTrainedModel, temperature: float) -> None:
        """Wrap `lm` (a Hugging Face causal model); `temperature` is that of the sampling."""
        super().__init__()
        self.lm = lm
        self.temperature = temperature

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> TokenOutputs:
        """Log-probs and more of response tokens; see `response_outputs`."""
        hidden = self.lm.base_model(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return response_outputs(self.lm.get_output_embeddings(), hidden, input_ids, response_mask, self.temperature)


def load_causal_lm(path: Path | str, dtype: str, gradient_checkpointing: bool = False) -> PreTrainedModel:
    """Load a Hugging Face causal model with SDPA attention; code that ships with a model is never run."""
    lm = AutoModelForCausalLM.from_pretrained(
        path, dtype=DTYPES[dtype], attn_implementation="sdpa", trust_remote_code=False
    )
    _compute_head_in_float32(lm)
    if gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return lm


def _compute_head_in_float32(lm: PreTrainedModel) -> None:
    """Have the head give float32 logits, as the engine's does: rounded to bfloat16, the two would differ by more."""
    head = lm.get_output_embeddings()
    head.forward = lambda hidden: functional.linear(hidden.float(), head.weight.float())
