"""Configuration of one SFT run (`openr1 sft`)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from openr1.config.data import Columns
from openr1.config.sections import (
    BuiltInTemplate,
    ClusterConfig,
    FixedDatasetCheckpointConfig,
    ModelConfig,
    NotNegative,
    OptimizerConfig,
    PlacementConfig,
    PolicyConfig,
    Positive,
    RunConfig,
    Section,
    TemplateArguments,
    TrackingConfig,
)


class SftDataConfig(Section):
    """Supervised rows: `prompt` or `messages`, and `response`; data/README.md."""

    train: Path
    """Prompts with responses: .jsonl, .json, .parquet, or a dataset of the hub; data/README.md."""
    held_out: Path | None = None
    """Held-out rows, as `train`; their loss is evaluated before and after training and every `eval_steps` steps."""
    columns: Columns | None = None
    """Names of the files' columns where they differ: {prompt: question, response: answer}; dots reach inside."""
    shuffle: bool = True
    """Shuffle each epoch; false keeps the order of the file (a curriculum)."""
    max_len: Positive = 2048
    """Maximum length of prompt + response in tokens; rows are never truncated."""
    overlong: Literal["refuse", "drop"] = "refuse"
    """Longer rows: refuse stops with an error, drop leaves them out and counts them."""
    system_prompt: str | None = None
    """System prompt for rows with a `prompt` (rows with `messages` bring their own)."""
    assistant_prefix: str = ""
    """Text that every response continues, such as `<think>`."""
    chat_template: BuiltInTemplate | Path | None = None
    """Chat template: a Jinja file, or plain or r1_zero for base models (docs/data.md); null: the tokenizer's own."""
    chat_template_kwargs: TemplateArguments | None = None
    """Values of variables that the chat template reads, such as {enable_thinking: false}; exported with it."""


class SftConfig(Section):
    """One SFT run."""

    run: RunConfig
    model: ModelConfig
    data: SftDataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    policy: PolicyConfig = PolicyConfig()
    placement: PlacementConfig = PlacementConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: FixedDatasetCheckpointConfig = FixedDatasetCheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    max_epochs: Positive = 1
    """Epochs."""
    max_steps: NotNegative = 0
    """Maximum number of optimizer steps; 0: as many as the epochs have."""
    eval_steps: NotNegative = 0
    """Interval between evaluations of the held-out loss, in steps; 0: only before and after."""
    z_loss_coef: Annotated[float, Field(ge=0)] = 0.0
    """z-loss: weight of the squared log-normalizer of the softmax, which keeps logits small."""
