"""Configuration of one RL run (`openr1 train`); `config.checks` checks what spans several keys."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from openr1.config.data import Columns, SourceConfig, Sources
from openr1.config.sections import (
    SMALLEST_TEMPERATURE,
    BuiltInTemplate,
    CheckpointConfig,
    ClusterConfig,
    ModelConfig,
    NotNegative,
    OptimizerConfig,
    PlacementConfig,
    PolicyConfig,
    Positive,
    RunConfig,
    Seconds,
    Section,
    TemplateArguments,
    TrackingConfig,
)
from openr1.runtime.import_path import absolute
from reward_server.functions.module import absolute_module

# Names of what `algorithms/advantages.py`, `algorithms/losses.py` and `rollout/env.py` register. Written twice, since
# reading a config must not import torch; a test compares them.
GROUP_ESTIMATORS = ("grpo", "dr_grpo", "rloo", "reinforce++-baseline", "gdpo")
"""Estimators that compare the responses to one prompt, and so need several."""
ADVANTAGE_ESTIMATORS = (*GROUP_ESTIMATORS, "reinforce", "reinforce++", "gae", "none")
POLICY_LOSSES = ("ppo", "gspo", "cispo", "gmpo", "sapo")
ENVS = ("single_turn",)


def _known_or_import_path(name: str, known: tuple[str, ...]) -> str:
    """A built-in name, or an import path with its file made absolute, so that it means the same in every process."""
    if name in known:
        return name
    if ":" not in name:
        raise ValueError(f"must be one of {', '.join(known)}, or an import path, package.module:name or file.py:name")
    return absolute(name)


class DataConfig(Section):
    """Prompt datasets; schema: data/README.md."""

    train: Sources
    """Training prompts: .jsonl, .json, .parquet, a dataset of the hub, or a list of {path, weight}; data/README.md."""
    held_out: Path | None = None
    """Held-out prompts for evaluation before and after training, as `train`; null: no evaluation."""
    columns: Columns | None = None
    """Names of the files' columns where they differ: {prompt: question, label: answer}; dots reach inside."""
    task: str | None = None
    """Task that grades rows without a `task` column; null: every row names its own."""
    pass_rates: Path | None = None
    """pass_rates.jsonl of an earlier run, to start from its pass rates."""
    min_pass_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Skip prompts whose most recent pass rate is below this; 0.01 skips those never solved. null: skip none."""
    max_pass_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Skip prompts whose most recent pass rate is above this; 0.99 skips those always solved. null: skip none."""
    target_pass_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    """Prefer prompts whose most recent pass rate is near this, such as 0.5; null: no preference."""
    prompt_max_len: Positive = 512
    """Maximum prompt length in tokens, chat template included; longer prompts are an error, never truncated."""
    system_prompt: str | None = None
    """System prompt for rows with a `prompt` (rows with `messages` bring their own)."""
    assistant_prefix: str = ""
    """Text that every response continues, such as `<think>`; graded as part of the response."""
    chat_template: BuiltInTemplate | Path | None = None
    """Chat template: a Jinja file, or plain or r1_zero for base models (docs/data.md); null: the tokenizer's own."""
    chat_template_kwargs: TemplateArguments | None = None
    """Values of variables that the chat template reads, such as {enable_thinking: false}; exported with it."""

    @property
    def sources(self) -> list[SourceConfig]:
        """The datasets of `train`, with their columns and tasks."""
        listed = self.train if isinstance(self.train, list) else [SourceConfig(path=self.train)]
        return [self.complete(source) for source in listed]

    def complete(self, source: SourceConfig) -> SourceConfig:
        """A dataset with what it leaves to `columns` and `task`."""
        columns = self.columns if source.columns is None else source.columns
        return source.model_copy(update={"columns": columns, "task": source.task or self.task})


class RolloutConfig(Section):
    """Generation with vLLM."""

    rollout_batch_size: Positive = 64
    """Prompts per step."""
    n_samples_per_prompt: Positive = 8
    """Responses per prompt; at least 2 for estimators that compare them."""
    generate_max_len: Positive = 1024
    """Maximum response length in tokens."""
    temperature: Annotated[float, Field(ge=SMALLEST_TEMPERATURE, le=2)] = 1.0
    """Sampling temperature, not below vLLM's smallest; all log-probs are those of logits / temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling; below 1 the engine's log-probs are those of the truncated distribution."""
    max_staleness: NotNegative = 0
    """Maximum policy lag in steps: how far sampling may run ahead of training. 0 is fully synchronous."""
    in_flight: Literal["keep", "drain"] = "keep"
    """Unfinished responses when new weights arrive: keep continues them, drain delays the push until they end."""
    num_engines: Positive | None = None
    """vLLM engines; null: as many as the layout has GPUs for, 1 on the CPU."""
    tensor_parallel_size: Positive = 1
    """GPUs (processes on the CPU) over which one engine is split."""
    max_num_seqs: Positive = 256
    """Maximum number of sequences that one engine decodes at once."""
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    """KV cache of one engine per GPU, GiB; null: room for max_num_seqs, at most 1 (CPU); what is left (GPU)."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Part of a GPU's memory that an engine takes; null: 0.9; 0.3 of a shared GPU, 0.5 with placement.sleep."""
    threads: Positive = 1
    """CPU threads per engine."""
    verify_steps: NotNegative = 50
    """Interval, in steps, of the engine/policy log-prob check; 0: only after the first push (always checked)."""
    timeout_seconds: Seconds = 600.0
    """Timeout for the next finished group, and for an engine to start."""

    max_restarts: NotNegative = 3
    """How often a lost engine, or copy of the reference, is started again before the run ends."""

    env: str = "single_turn"
    """Environment that turns a prompt into a response: single_turn, or an import path."""

    @field_validator("env")
    @classmethod
    def _check_env(cls, name: str) -> str:
        return _known_or_import_path(name, ENVS)


class ShadowConfig(Section):
    """A second task that grades a share of the responses and never trains; docs/own_reward.md."""

    task: str
    """Task of the reward server, by another rule than the one that trains."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the responses that it grades, chosen by a hash of each."""
    max_disagreement: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Rate of disagreement above which the alarm is raised, once it is above beyond chance."""


class RewardConfig(Section):
    """Reward server and its client."""

    url: Annotated[list[str], Field(min_length=1)] | None = None
    """Address such as http://127.0.0.1:5000, or a list of several; null: the run starts its own server."""
    server_config: Path | None = None
    """YAML config of the server that the run starts: weights, limits, tasks; keys: docs/reward_server.md."""
    module: str | None = None
    """Your reward functions, my_rewards.py or package.module; each is a task of its name (docs/own_reward.md)."""
    task: str | None = None
    """Task that grades every row; null: each row's own, or the only function of reward.module if no row names it."""
    deadline_seconds: Seconds = 60.0
    """Deadline for one group's rewards, retries included."""
    ready_timeout_seconds: Seconds = 60.0
    """Timeout for all servers to become ready at the start."""
    max_failed_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of responses that may be ungraded (they never train); above it the run stops."""

    shadow: ShadowConfig | None = None
    """Second grader that watches the first; null: none."""
    clip: tuple[float, float] | None = None
    """[low, high]: rewards are clipped to this range first. null: no clipping."""
    overlong_buffer_len: NotNegative = 0
    """Length of the soft-penalty zone before generate_max_len, in tokens (DAPO); 0: no penalty."""
    overlong_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Penalty at generate_max_len; grows linearly over the zone."""

    @field_validator("module")
    @classmethod
    def _make_module_absolute(cls, path: str | None) -> str | None:
        return path if path is None else absolute_module(path)

    @field_validator("url", mode="before")
    @classmethod
    def _list_one_address(cls, url: object) -> object:
        return [url] if isinstance(url, str) else url


class AlgorithmConfig(Section):
    """From rewards to the loss; formulas: docs/algorithms.md."""

    advantage_estimator: str = "grpo"
    """grpo, dr_grpo, rloo, reinforce, reinforce++, reinforce++-baseline, gdpo, gae, none, or an import path."""
    component_weights: dict[str, float] | None = None
    """Weights of the reward's components in gdpo, {accuracy: 1, format: 0.5}; names all of them. null: 1 each."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount factor per token (gae only)."""
    lambd: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Lambda of gae: 1 is return minus value, 0 the one-step TD error."""
    lambd_alpha: Annotated[float, Field(gt=0)] | None = None
    """gae: lambda is 1 - 1 / (lambd_alpha x tokens) for each response (VAPO: 0.05); null: lambd for all."""
    critic_lambd: Annotated[float, Field(ge=0, le=1)] | None = None
    """Lambda of the returns that the critic learns; null: the same as that of the advantages."""
    policy_loss: str = "ppo"
    """ppo, gspo, cispo, gmpo, sapo (docs/algorithms.md), or an import path."""
    loss_aggregation: Literal["token", "sequence", "constant"] = "token"
    """token: mean over tokens; sequence: mean of response means; constant: sum / (responses x generate_max_len)."""
    eps_clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Lower clip bound of the probability ratio: 1 - eps_clip_low."""
    eps_clip_high: Annotated[float, Field(gt=0)] = 0.2
    """Upper clip bound of the probability ratio: 1 + eps_clip_high."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Dual clip: bound on the loss at negative advantages, as a multiple of abs(advantage); null: unbounded."""
    soft_clip: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 1.05)
    """[positive, negative]: how fast sapo's gate closes with the ratio, by the sign of the advantage."""
    init_kl_coef: Annotated[float, Field(ge=0)] = 0.01
    """KL coefficient; 0 runs without a reference model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """KL estimator per token (Schulman, 2020); k1 not in the loss."""
    kl_in: Literal["loss", "reward", "advantage"] = "loss"
    """loss: a term per token; reward: subtracted from a response's reward; advantage: from each token's advantage."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """Adapt the KL coefficient towards this mean KL per token, in nats; null: fixed coefficient."""
    kl_horizon: Positive = 10000
    """Adaptation speed: the coefficient changes by at most 20 % per this many responses."""
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the entropy bonus."""
    mask_truncated: bool = False
    """Mask the loss of truncated responses; their rewards still count in the group statistics."""
    dynamic_sampling_rounds: Positive = 1
    """Dynamic sampling (DAPO): maximum rounds of prompts to replace zero-variance groups; 1: off."""
    max_epochs: Positive = 1
    """PPO epochs: passes over a step's responses, one optimizer step per train_batch_size of them."""
    reward_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Blend each group's mean and std with a running mean and std by this factor; 0: off."""

    @field_validator("advantage_estimator")
    @classmethod
    def _check_estimator(cls, name: str) -> str:
        return _known_or_import_path(name, ADVANTAGE_ESTIMATORS)

    @field_validator("policy_loss")
    @classmethod
    def _check_policy_loss(cls, name: str) -> str:
        return _known_or_import_path(name, POLICY_LOSSES)


class OffPolicyConfig(Section):
    """Off-policy correction for the gap between the engines' and the trainer's log-probs."""

    importance: Literal["auto", "none", "token", "sequence"] = "auto"
    """Importance weights trainer/engine on the loss; auto: token if rollout.max_staleness > 0, else none."""
    importance_max: Annotated[float, Field(ge=1)] = 2.0
    """Truncation of the importance weights."""
    rejection: Literal["none", "token", "sequence"] = "none"
    """Mask tokens, or sequences by the geometric mean of their ratios, whose ratio is out of bounds."""
    rejection_low: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Lower bound of the ratio."""
    rejection_high: Annotated[float, Field(gt=1)] = 5.0
    """Upper bound of the ratio."""


class WeightSyncConfig(Section):
    """How new weights travel from the policy to the engines; docs/gpu.md."""

    backend: Literal["auto", "shm", "gloo", "nccl", "ipc"] = "auto"
    """shm: shared memory; gloo: TCP; nccl, ipc: between GPUs. auto: shm on one machine, else nccl or gloo."""


class CriticConfig(Section):
    """Value model, only with `advantage_estimator: gae`; otherwise configured like the policy."""

    path: Path | None = None
    """Initial model, with the policy's tokenizer; null: model.path."""
    learning_rate: Annotated[float, Field(gt=0)] = 9e-6
    """Highest learning rate."""
    value_clip: Annotated[float, Field(gt=0)] | None = 0.5
    """Clip range of value updates around the old values, in reward units; null: no clipping."""
    warmup_steps: NotNegative = 0
    """Steps at the start that train only the critic."""


class ReferenceConfig(Section):
    """Model that the policy is compared with; otherwise configured like the policy."""

    path: Path | None = None
    """A teacher, with the policy's tokenizer (docs/algorithms.md); null: the model that the run begins with."""


class EvaluationConfig(Section):
    """Evaluation on held-out prompts, before and after training and every `eval_steps` steps."""

    n_samples_per_prompt: Positive = 4
    """Responses per prompt for pass@1 at the training temperature."""
    base_pass_at: NotNegative = 0
    """Also report pass@k of the untrained model, with this k; 0: off."""
    eval_steps: NotNegative = 0
    """Interval between evaluations, in steps; the best checkpoint is kept. 0: only before and after."""


class TrainPlacementConfig(PlacementConfig):
    """Which GPUs the actors run on; docs/gpu.md."""

    sleep: bool = False
    """Engines and training take turns in the memory of colocated GPUs, for models that do not fit beside an engine."""


class DebugConfig(Section):
    """Recording and replaying steps; docs/reproducibility.md."""

    record: Path | None = None
    """Write every step to this folder just before its update."""
    replay: Path | None = None
    """Replay recorded steps from this folder instead of generating; no engine is started."""
    replay_from: Literal["rollout", "reward", "advantage"] = "rollout"
    """What to replay: rollout (responses), reward (also their grades), advantage (everything before the update)."""
    rollout_only: bool = False
    """Evaluate losses without updating the weights."""

    def reads(self, boundary: str) -> bool:
        """Whether a replay reads everything up to this boundary."""
        boundaries = ("rollout", "reward", "advantage")
        return self.replay is not None and boundaries.index(boundary) <= boundaries.index(self.replay_from)


class TrainConfig(Section):
    """One RL run."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    off_policy: OffPolicyConfig = OffPolicyConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    critic: CriticConfig = CriticConfig()
    reference: ReferenceConfig = ReferenceConfig()
    policy: PolicyConfig = PolicyConfig()
    placement: TrainPlacementConfig = TrainPlacementConfig()
    cluster: ClusterConfig = ClusterConfig()
    weight_sync: WeightSyncConfig = WeightSyncConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    debug: DebugConfig = DebugConfig()
    num_steps: Positive
    """Training steps: prompts -> rollout -> rewards -> advantages -> update -> weight sync."""

    @property
    def importance(self) -> str:
        """`off_policy.importance` with auto resolved."""
        auto = "token" if self.rollout.max_staleness > 0 else "none"
        return auto if self.off_policy.importance == "auto" else self.off_policy.importance

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps per training step."""
        responses = self.rollout.rollout_batch_size * self.rollout.n_samples_per_prompt
        return self.algorithm.max_epochs * responses // self.policy.train_batch_size

    @property
    def policy_updates(self) -> int:
        """Optimizer steps of the policy in the whole run, without the critic's warm-up."""
        return (self.num_steps - self.critic.warmup_steps) * self.updates_per_step

    @property
    def has_reference(self) -> bool:
        """Whether the algorithm needs reference log-probs."""
        return self.algorithm.init_kl_coef > 0

    @property
    def has_reference_model(self) -> bool:
        """Whether these come from a model of their own; with LoRA they may be the policy's without its adapters."""
        return self.has_reference and (self.model.lora is None or self.has_teacher)

    @property
    def has_teacher(self) -> bool:
        """Whether the reference is another model than the one that the run begins with."""
        return self.reference.path not in (None, self.model.path)

    @property
    def reference_model(self) -> ModelConfig:
        """The reference model."""
        return self.model.model_copy(update={"path": self.reference.path or self.model.path, "lora": None})

    @property
    def has_critic(self) -> bool:
        """Whether a critic is trained."""
        return self.algorithm.advantage_estimator == "gae"

    @property
    def critic_model(self) -> ModelConfig:
        """The critic's initial model."""
        return self.model.model_copy(update={"path": self.critic.path or self.model.path})

    @property
    def other_models(self) -> dict[str, ModelConfig]:
        """Models beside the policy's initial one, by the key that names them."""
        models = {"critic.path": self.critic_model, "reference.path": self.reference_model}
        return {key: model for key, model in models.items() if model.path != self.model.path}
