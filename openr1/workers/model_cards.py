"""What the README.md of a LoRA export says of its two folders: the adapter, and the model that it is merged into."""

from openr1.config.sections import ModelConfig

ADAPTER_CARD = """---
base_model: {base}
library_name: peft
tags:
- lora
---

# LoRA adapter

This adapter on {base} is the policy that was trained, and whose responses were sampled and evaluated during training.
Load it with PEFT, or with vLLM's LoRA. The folder above has it merged, in {dtype}.
"""

MERGED_CARD = """# Merged model

{base} with the adapter of `adapter/` merged into its weights: the sum was computed in float32 and rounded to {dtype}.

{share:.1%} of the adapter's update is left after that. {advice}
"""

EXACT = "The two are the same policy."
ROUNDED = """The rest is smaller than the spacing of {dtype} numbers at these weights.
The policy that was trained is {base} with `adapter/`, not merged; evaluations of this folder measure what is left."""

NOTHING_LOST = 0.999
"""From this part of the update on, merged model and adapter are said to be the same."""


def adapter_card(model: ModelConfig) -> str:
    """README.md of the adapter's folder."""
    return ADAPTER_CARD.format(base=model.path.name, dtype=model.dtype)


def merged_card(model: ModelConfig, share: float) -> str:
    """README.md of the merged model's folder; `share` is the part of the update that is left (`lora.KeptUpdate`)."""
    advice = EXACT if share >= NOTHING_LOST else ROUNDED.format(base=model.path.name, dtype=model.dtype)
    return MERGED_CARD.format(base=model.path.name, dtype=model.dtype, share=share, advice=advice)
