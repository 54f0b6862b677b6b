"""The shape of a model: its config.json, or what is published of a model that has not been downloaded yet."""

from dataclasses import dataclass

from transformers import AutoConfig, PreTrainedConfig, Qwen2Config

from openr1.config.sections import ModelConfig
from openr1.errors import MissingError
from openr1.workers.rope import rope_scaling_overrides


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2.5 model, as its config.json on the Hugging Face Hub gives them."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool

    def to_config(self) -> PreTrainedConfig:
        """The configuration in transformers' form."""
        return Qwen2Config(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.intermediate,
            vocab_size=self.vocab,
            tie_word_embeddings=self.tied,
            architectures=["Qwen2ForCausalLM"],
        )


QWEN_SHAPES = {
    "0.5b": Shape(896, 24, 14, 2, 4864, 151_936, True),
    "1.5b": Shape(1536, 28, 12, 2, 8960, 151_936, True),
    "3b": Shape(2048, 36, 16, 2, 11_008, 151_936, True),
    "7b": Shape(3584, 28, 28, 4, 18_944, 152_064, False),
}
"""Models of the recipes, Qwen2.5 and Qwen2.5-Math in these sizes, with and without -Instruct."""


def read_shape(model: ModelConfig) -> PreTrainedConfig:
    """The model's configuration. Its weights need not be there.

    Raises:
        MissingError: There is no config.json, and the folder's name is not that of a model of the recipes.
    """
    if (model.path / "config.json").is_file():
        return AutoConfig.from_pretrained(model.path, trust_remote_code=False, **rope_scaling_overrides(model))
    name = model.path.name.lower()
    for size, shape in QWEN_SHAPES.items():
        if name in {
            f"qwen2.5-{size}",
            f"qwen2.5-{size}-instruct",
            f"qwen2.5-math-{size}",
            f"qwen2.5-math-{size}-instruct",
        }:
            return shape.to_config()
    raise MissingError(
        f"model.path {model.path}: no config.json there, which says how large the model is; that file alone is enough "
        "for a plan"
    )
