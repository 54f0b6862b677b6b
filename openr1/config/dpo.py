"""Configuration of one DPO run (`openr1 dpo`)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

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

BETA_OF_SIMPO = 2.0
"""Its scores are means over tokens, and so much smaller than DPO's sums."""


class DpoDataConfig(Section):
    """Preference pairs."""

    train: Path
    """Pairs (.jsonl, .json, .parquet, a dataset of the hub), or an RL run's folder, whose rollouts give the pairs."""
    columns: Columns | None = None
    """Names of the file's columns where they differ, such as {prompt: question}; dots reach inside."""
    max_len: Positive = 2048
    """Maximum length of prompt + response in tokens; longer pairs are dropped and counted."""
    system_prompt: str | None = None
    """System prompt for rows with a `prompt`; unused for the rollouts of a run."""
    assistant_prefix: str = ""
    """Text that both responses continue; unused for the rollouts of a run."""
    chat_template: BuiltInTemplate | Path | None = None
    """Chat template: a Jinja file, or plain or r1_zero for base models (docs/data.md); null: the tokenizer's own."""
    chat_template_kwargs: TemplateArguments | None = None
    """Values of variables that the chat template reads, such as {enable_thinking: false}; exported with it."""


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
    loss: Literal["dpo", "simpo", "orpo"] = "dpo"
    """dpo: against the initial weights; simpo, orpo: without a reference (docs/recipes.md)."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Factor of the log-probs in dpo and simpo, of the odds in orpo; simpo's own default is 2."""
    target_margin: Annotated[float, Field(ge=0)] = 1.0
    """SimPO: margin, in units of beta x log-prob, by which the better response should be ahead (gamma)."""
    max_epochs: Positive = 1
    """Epochs."""
    max_steps: NotNegative = 0
    """Maximum number of optimizer steps; 0: as many as the epochs have."""

    @model_validator(mode="before")
    @classmethod
    def _choose_beta(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("loss") == "simpo" and "beta" not in values:
            return {**values, "beta": BETA_OF_SIMPO}
        return values
