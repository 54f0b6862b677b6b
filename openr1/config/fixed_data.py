"""Configuration of runs on what is written already: supervised training and preferences. `config.py` has the rest."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from openr1.config.train import (
    CheckpointConfig,
    ModelConfig,
    NotNegative,
    OptimizerConfig,
    PolicyConfig,
    Positive,
    RunConfig,
    Section,
    TrackingConfig,
)


class OfflineCheckpointConfig(CheckpointConfig):
    """Saving and resuming of runs that are short."""

    save_steps: NotNegative = 0
    """Save every so many steps, and at the end; 0 = only at the end and when interrupted."""


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
    checkpoint: OfflineCheckpointConfig = OfflineCheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    max_epochs: Positive = 1
    """Passes over the data."""
    max_steps: NotNegative = 0
    """Optimizer steps at most; 0 = as many as the epochs have."""
    eval_steps: NotNegative = 0
    """Measure the held-out loss every so many steps; 0 = before and after only."""
    z_loss_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared log-normalizer of the softmax; it keeps logits near 0, where bfloat16 is fine-grained."""


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
    checkpoint: OfflineCheckpointConfig = OfflineCheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How much the policy is held to where it started."""
    max_epochs: Positive = 1
    """Passes over the pairs."""
    max_steps: NotNegative = 0
    """Optimizer steps at most; 0 = as many as the epochs have."""
