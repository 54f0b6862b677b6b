"""Configuration of one DPO run (`openr1 dpo`)."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from openr1.config.sections import (
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
    TrackingConfig,
)


class DpoDataConfig(Section):
    """Preference pairs."""

    train: Path
    """JSONL file with `chosen` and `rejected`, or the folder of an RL run, whose rollouts give the pairs."""
    max_len: Positive = 2048
    """Maximum length of prompt + response in tokens; longer pairs are dropped and counted."""
    system_prompt: str | None = None
    """System prompt for rows with a `prompt`; unused for the rollouts of a run."""
    assistant_prefix: str = ""
    """Text that both responses continue; unused for the rollouts of a run."""


class DpoOptimizerConfig(OptimizerConfig):
    """AdamW and its learning-rate schedule."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-7
    """Peak learning rate."""


class DpoConfig(Section):
    """One DPO run."""

    run: RunConfig
    model: ModelConfig
    data: DpoDataConfig
    optimizer: DpoOptimizerConfig = DpoOptimizerConfig()
    policy: PolicyConfig = PolicyConfig()
    placement: PlacementConfig = PlacementConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: FixedDatasetCheckpointConfig = FixedDatasetCheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull towards the reference (DPO's beta)."""
    max_epochs: Positive = 1
    """Epochs."""
    max_steps: NotNegative = 0
    """Maximum number of optimizer steps; 0: as many as the epochs have."""
