"""Configuration of one SFT run (`openr1 sft`)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from openr1.config.sections import (
    FixedDatasetCheckpointConfig,
    ModelConfig,
    NotNegative,
    OptimizerConfig,
    PolicyConfig,
    Positive,
    RunConfig,
    Section,
    TrackingConfig,
)


class SftDataConfig(Section):
    """Supervised rows: the prompt schema plus `response`."""

    train: Path
    """JSONL of prompts with responses."""
    held_out: Path | None = None
    """JSONL of the same form; the loss on it is measured before and after, and every `eval_steps`."""
    shuffle: bool = True
    """Shuffle each epoch; False trains in the order of the file (a curriculum)."""
    max_len: Positive = 2048
    """Tokens of prompt + response; a row is never cut."""
    overlong: Literal["refuse", "drop"] = "refuse"
    """What becomes of longer rows: the first ends the command, or all are left out and counted."""
    system_prompt: str | None = None
    """Put before prompts that are given as text."""
    assistant_prefix: str = ""
    """Text that every response goes on from, such as `<think>`; graded as its beginning."""


class SftConfig(Section):
    """Everything about one supervised run."""

    run: RunConfig
    model: ModelConfig
    data: SftDataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    policy: PolicyConfig = PolicyConfig()
    checkpoint: FixedDatasetCheckpointConfig = FixedDatasetCheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    max_epochs: Positive = 1
    """Passes over the data."""
    max_steps: NotNegative = 0
    """Optimizer steps at most; 0 = as many as the epochs have."""
    eval_steps: NotNegative = 0
    """Measure the held-out loss every so many steps; 0 = before and after only."""
    z_loss_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared log-normalizer of the softmax; it keeps logits near 0, where bfloat16 is fine-grained."""
