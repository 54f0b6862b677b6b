"""Configuration of one DPO run (`openr1 dpo`)."""

from pathlib import Path
from typing import Annotated

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


class DpoDataConfig(Section):
    """Pairs of responses, one better than the other."""

    train: Path
    """JSONL with `chosen` and `rejected`, or the folder of a run, whose rollouts give the pairs."""
    max_len: Positive = 2048
    """Tokens of prompt + response; longer pairs are left out and counted."""
    system_prompt: str | None = None
    """Put before prompts that are given as text; not for the rollouts of a run."""
    assistant_prefix: str = ""
    """Text that both responses go on from; not for the rollouts of a run."""


class DpoOptimizerConfig(OptimizerConfig):
    """AdamW and its schedule."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-7
    """Highest learning rate."""


class DpoConfig(Section):
    """Everything about one run of preference optimization."""

    run: RunConfig
    model: ModelConfig
    data: DpoDataConfig
    optimizer: DpoOptimizerConfig = DpoOptimizerConfig()
    policy: PolicyConfig = PolicyConfig()
    checkpoint: FixedDatasetCheckpointConfig = FixedDatasetCheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How much the policy is held to where it started."""
    max_epochs: Positive = 1
    """Passes over the pairs."""
    max_steps: NotNegative = 0
    """Optimizer steps at most; 0 = as many as the epochs have."""
