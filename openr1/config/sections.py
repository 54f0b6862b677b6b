"""Configuration sections that RL, SFT and DPO runs share: pydantic models, read by `config.load`.

Keys keep the names that users of OpenRLHF know. A string under each field says what it is, its unit and range; it is
also the text of `--help` and docs/config.md.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0, strict=True)]
NotNegative = Annotated[int, Field(ge=0, strict=True)]
Seconds = Annotated[float, Field(gt=0)]
Dtype = Literal["bfloat16", "float32"]


class Section(BaseModel):
    """A part of the configuration: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class RunConfig(Section):
    """Where results go, and the seed of everything."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run and of its folder under `output_dir`."""
    output_dir: Path = Path("runs")
    """Parent of run folders."""
    seed: NotNegative = 0
    """Seed of the data order and the sampling."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.output_dir / self.name


class RopeScalingConfig(Section):
    """Longer texts by rotary positions that are scaled."""

    rope_type: Literal["linear", "yarn"] = "yarn"
    """How; as in Hugging Face configs."""
    factor: Annotated[float, Field(gt=1)]
    """The model gets so many times its positions."""


class LoraConfig(Section):
    """Low-rank adapters (PEFT): the model's own weights stay as they are."""

    rank: Positive = 16
    """Rank of the update of each weight matrix."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The update is scaled by alpha / rank."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get one, such as [q_proj, v_proj]; all-linear: all but the head."""


class ModelConfig(Section):
    """The model that is trained; the reference is a frozen copy of it."""

    path: Path
    """Folder in Hugging Face format, with tokenizer and chat template."""
    dtype: Dtype = "bfloat16"
    """Of policy, reference and engines; the optimizer always keeps float32 weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a quarter slower."""
    packing: bool = False
    """Lay the rows of a micro-batch end to end instead of padding them; micro_batch_tokens then counts real tokens."""
    rope_scaling: RopeScalingConfig | None = None
    """Stretch the positions beyond those that the model was trained with; exports say so in their config.json."""
    lora: LoraConfig | None = None
    """Train adapters only; engines and exports get them merged. None: all weights train."""


class OptimizerConfig(Section):
    """AdamW and its schedule."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """Highest learning rate."""
    lr_scheduler: Literal["constant", "linear", "cosine", "cosine_with_min_lr"] = "constant"
    """Shape after the warm-up."""
    lr_warmup_steps: NotNegative = 0
    """Optimizer steps over which the rate rises from 0."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Lowest rate as a share of the highest (cosine_with_min_lr only)."""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay rates of AdamW's moments."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradient norm above which gradients are scaled down; 0 = no clipping."""


class PolicyConfig(Section):
    """The DeepSpeed policy actors."""

    num_ranks: Positive = 1
    """Data-parallel ranks; each takes one GPU where there are GPUs."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """What DeepSpeed shards over ranks: 0 nothing (float32 only), 1 optimizer state, 2 gradients, 3 parameters too."""
    train_batch_size: Positive = 512
    """Responses an optimizer step; divides rollout_batch_size x n_samples_per_prompt."""
    micro_batch_tokens: Positive = 16384
    """Tokens, padding included, of one forward and backward pass on one rank."""
    threads: Positive = 1
    """CPU threads of one rank, and of the reference."""
    timeout_seconds: Seconds = 1800.0
    """Longest wait for an update, a checkpoint or the start of the actors."""


class CheckpointConfig(Section):
    """Saving and resuming."""

    save_steps: NotNegative = 10
    """Save every so many steps, and at the end; 0 = only at the end and when interrupted."""
    keep: Positive = 2
    """Newest checkpoints that are kept."""


class TrackingConfig(Section):
    """Loggers beside the run folder, which has every record anyway; docs/tracking.md."""

    backends: list[Literal["wandb", "swanlab", "tensorboard"]] = []
    """Loggers to log to. Keys are read from WANDB_API_KEY, SWANLAB_API_KEY or netrc, never from here."""
    project: Annotated[str, Field(min_length=1)] = "openr1"
    """Project that the run appears in (wandb, swanlab)."""
    experiment_name: Annotated[str, Field(min_length=1)] | None = None
    """Name that the run appears under (wandb, swanlab); none = run.name."""
    workspace: Annotated[str, Field(min_length=1)] | None = None
    """User or team that owns the project (wandb calls it entity); none = the key's own."""
    mode: Literal["online", "offline", "disabled"] = "online"
    """Of wandb and swanlab: online; offline, kept in the run folder to be uploaded later; disabled, not started."""
    rollout_table_steps: NotNegative = 10
    """Send a table of rollouts every so many steps; 0 = never."""
    rollout_table_rows: Positive = 16
    """Responses in a table at most: the first ones of the step."""


class FixedDatasetCheckpointConfig(CheckpointConfig):
    """Saving and resuming of SFT and DPO runs."""

    save_steps: NotNegative = 0
    """Save every so many steps, and at the end; 0 = only at the end and when interrupted."""
