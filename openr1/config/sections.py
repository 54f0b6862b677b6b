"""Configuration sections that RL, SFT and DPO runs share: pydantic models, read by `config.load`.

Keys keep the names that users of OpenRLHF know. A string under each field says what it is, its unit and range; it is
also the text of `--help` and docs/config.md.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

Positive = Annotated[int, Field(gt=0, strict=True)]
NotNegative = Annotated[int, Field(ge=0, strict=True)]
Seconds = Annotated[float, Field(gt=0)]
SMALLEST_TEMPERATURE = 0.01
"""Above 0. vLLM raises lower ones to this."""
Dtype = Literal["bfloat16", "float32"]
BuiltInTemplate = Literal["plain", "r1_zero"]
"""Names of what `data/template.py` has; a test compares them."""
TemplateArguments = dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], JsonValue]


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys are errors, `~` at the start of a path is the home folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _expand_home(cls, value: object) -> object:
        return value.expanduser() if isinstance(value, Path) else value


class RunConfig(Section):
    """Output folder and random seed."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run, and of its folder under `output_dir`."""
    output_dir: Path = Path("runs")
    """Parent of the run folders."""
    seed: NotNegative = 0
    """Seed of the data order and of sampling."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.output_dir / self.name


class RopeScalingConfig(Section):
    """RoPE scaling, for contexts longer than the model was trained with."""

    rope_type: Literal["linear", "yarn"] = "yarn"
    """Scaling method, as in Hugging Face configs."""
    factor: Annotated[float, Field(gt=1)]
    """Context length is multiplied by this factor."""


class LoraConfig(Section):
    """Low-rank adapters (PEFT); the model's own weights are frozen."""

    rank: Annotated[int, Field(ge=1, le=512)] = 16
    """Rank of the adapters."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale: the update is multiplied by alpha / rank."""
    target_modules: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Linear layers that get an adapter, such as [q_proj, v_proj]; all-linear: all but head, experts and routers."""


class ModelConfig(Section):
    """The model to train; the reference is a frozen copy of it."""

    path: Path
    """Folder in Hugging Face format with weights, tokenizer, chat template; or a downloaded model, OWNER/NAME."""
    dtype: Dtype = "bfloat16"
    """Data type of policy, reference and engines (on CPUs: docs/performance.md); master weights are float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a quarter slower."""
    packing: bool = True
    """Concatenate rows instead of padding them, and compute prompts once for all responses; no sliding windows."""
    attention: Literal["auto", "sdpa", "flash_attention_2"] = "auto"
    """Packed rows on GPUs: sdpa (PyTorch's kernels), flash_attention_2 (flash-attn), auto (flash-attn if installed)."""
    rope_scaling: RopeScalingConfig | None = None
    """RoPE scaling; written to the config.json of exported models. null: none."""
    lora: LoraConfig | None = None
    """Train LoRA adapters only; engines get these, exports also merged weights. null: full fine-tuning."""


class OptimizerConfig(Section):
    """AdamW and its learning-rate schedule."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate."""
    lr_scheduler: Literal["constant", "linear", "cosine", "cosine_with_min_lr"] = "constant"
    """Schedule after warm-up."""
    lr_warmup_steps: NotNegative = 0
    """Optimizer steps of linear warm-up from 0."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Final learning rate as a fraction of the peak (cosine_with_min_lr only)."""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """AdamW's beta1 and beta2."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradient clipping norm; 0: no clipping."""
    offload: Literal["none", "cpu"] = "none"
    """cpu: keep master weights and AdamW's moments in host memory and update there, with policy.threads threads."""


class PlacementConfig(Section):
    """Which GPUs the actors run on; docs/gpu.md."""

    layout: Literal["auto", "separate", "colocated", "half", "cpu"] = "auto"
    """separate: GPUs of their own per role; colocated: all roles on every GPU; half: engines apart; cpu: no GPU."""


class ClusterConfig(Section):
    """The Ray cluster that the actors run on; docs/cluster.md."""

    address: Annotated[str, Field(min_length=1)] | None = None
    """Address of a running cluster, such as 10.0.0.1:6379; null: RAY_ADDRESS, else a cluster of this run's own."""
    interface: Annotated[str, Field(min_length=1)] | None = None
    """Network interface between nodes, such as eth0; null: on each node the one with the node's address in Ray."""


class PolicyConfig(Section):
    """DeepSpeed training workers of the policy."""

    num_ranks: Positive | None = None
    """Data-parallel ranks, one GPU each; null: as many as the layout has GPUs for, 1 on the CPU."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """ZeRO stage: shards 0 nothing (float32 only), 1 optimizer state, 2 also gradients, 3 also parameters."""
    train_batch_size: Positive = 512
    """Responses per optimizer step (mini-batch); must divide rollout_batch_size x n_samples_per_prompt."""
    micro_batch_tokens: Positive = 16384
    """Token budget, padding included, of one forward and backward pass on one rank."""
    threads: Positive = 1
    """CPU threads per rank, and of the reference."""
    timeout_seconds: Seconds = 1800.0
    """Timeout for an update, a checkpoint or the start of the workers."""


class CheckpointConfig(Section):
    """Checkpoints."""

    save_steps: NotNegative = 10
    """Interval between checkpoints, in steps; 0: only at the end and when interrupted."""
    keep: Positive = 2
    """How many of the newest checkpoints to keep."""
    on_failed_save: Literal["stop", "continue"] = "stop"
    """If one cannot be written (a full disk): stop the run, or continue, and try again when the next one is due."""


class TrackingConfig(Section):
    """Experiment loggers, in addition to the run folder, which has everything; docs/tracking.md."""

    backends: list[Literal["wandb", "swanlab", "tensorboard"]] = []
    """Loggers to use. API keys come from WANDB_API_KEY, SWANLAB_API_KEY or netrc, never from this file."""
    project: Annotated[str, Field(min_length=1)] = "openr1"
    """Project name (wandb, swanlab)."""
    experiment_name: Annotated[str, Field(min_length=1)] | None = None
    """Display name of the run (wandb, swanlab); null: run.name."""
    workspace: Annotated[str, Field(min_length=1)] | None = None
    """User or team that owns the project (wandb entity); null: the API key's default."""
    mode: Literal["online", "offline", "disabled"] = "online"
    """wandb and swanlab: online; offline (kept in the run folder, to upload later); disabled (not started)."""
    rollout_table_steps: NotNegative = 10
    """Interval between tables of rollouts, in steps; 0: never."""
    rollout_table_rows: Positive = 16
    """Maximum number of responses in a table: the first ones of the step."""
    keep_rollouts: Positive | None = None
    """How many of the newest files of rollouts to keep, those for loggers to send apart; null: all."""
    compress_rollouts: bool = False
    """Write rollouts as .jsonl.gz, which are several times smaller (gzip)."""


class FixedDatasetCheckpointConfig(CheckpointConfig):
    """Saving and resuming of SFT and DPO runs."""

    save_steps: NotNegative = 0
    """Interval between checkpoints, in steps; 0: only at the end and when interrupted."""
