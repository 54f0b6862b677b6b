"""Configuration of one RL run (`openr1 train`); `config.checks` checks what spans several keys."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from openr1.config.sections import (
    CheckpointConfig,
    ModelConfig,
    NotNegative,
    OptimizerConfig,
    PolicyConfig,
    Positive,
    RunConfig,
    Seconds,
    Section,
    TrackingConfig,
)
from openr1.runtime.import_path import absolute

GROUP_ESTIMATORS = ("grpo", "dr_grpo", "rloo", "reinforce++-baseline")
"""Estimators that compare the responses to one prompt, and so need several."""
ADVANTAGE_ESTIMATORS = (*GROUP_ESTIMATORS, "reinforce", "reinforce++", "gae")
POLICY_LOSSES = ("ppo", "gspo", "cispo")
ENVS = ("single_turn",)


def _known_or_import_path(name: str, known: tuple[str, ...]) -> str:
    """A built-in name, or an import path with its file made absolute, so that it means the same in every process."""
    if name in known:
        return name
    if ":" not in name:
        raise ValueError(f"must be one of {', '.join(known)}, or an import path, package.module:name or file.py:name")
    return absolute(name)


class DataConfig(Section):
    """Prompts; data/README.md has the schema."""

    train: Path
    """JSONL of prompts to train on."""
    held_out: Path | None = None
    """JSONL of prompts that accuracy is measured on before and after; none = no evaluation."""
    pass_rates: Path | None = None
    """A run's pass_rates.jsonl: what is known of the prompts before the first step."""
    max_pass_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Pass over prompts that were solved more often than this at their newest visit; 0.99: those solved each time."""
    prompt_max_len: Positive = 512
    """Tokens of a prompt, chat template included; a longer prompt is refused, never cut."""
    system_prompt: str | None = None
    """Put before prompts that are given as text."""
    assistant_prefix: str = ""
    """Text that every response goes on from, such as `<think>`; graded as its beginning."""


class RolloutConfig(Section):
    """Generation with vLLM."""

    rollout_batch_size: Positive = 64
    """Prompts a step."""
    n_samples_per_prompt: Positive = 8
    """Responses a prompt; at least 2 for advantages that compare them."""
    generate_max_len: Positive = 1024
    """Tokens of a response at most."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Of the sampling; log-probs everywhere are those of logits / temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling; below 1 the engine's log-probs are of the cut distribution, the trainer's are not."""
    max_staleness: NotNegative = 0
    """Steps that are sampled ahead, by weights that are as many steps old at most; 0: each step by the newest."""
    in_flight: Literal["keep", "drain"] = "keep"
    """Responses that new weights find unfinished: keep goes on with them, drain finishes their step first."""
    num_engines: Positive = 1
    """vLLM engines; each takes one GPU where there are GPUs."""
    max_num_seqs: Positive = 256
    """Responses that one engine works on at a time."""
    kv_cache_gib: Annotated[float, Field(gt=0)] = 1.0
    """Memory of one engine's KV cache, GiB."""
    threads: Positive = 1
    """CPU threads of one engine."""
    verify_steps: NotNegative = 50
    """Compare each engine's log-probs with the policy's after every so many steps and the first push; 0: that alone."""
    timeout_seconds: Seconds = 600.0
    """Longest wait for the next finished group, and for an engine to start."""

    env: str = "single_turn"
    """Environment that turns a prompt into a response: single_turn, or the import path of one."""

    @field_validator("env")
    @classmethod
    def _check_env(cls, name: str) -> str:
        return _known_or_import_path(name, ENVS)


class RewardConfig(Section):
    """The client of the reward server."""

    url: Annotated[list[str], Field(min_length=1)] | None = None
    """One address such as http://127.0.0.1:5000, or a list of several; scripts/grpo.sh fills in its own server's."""
    server_config: Path | None = None
    """YAML of weights and limits for the server that scripts/grpo.sh starts; docs/reward_server.md has its keys."""
    deadline_seconds: Seconds = 60.0
    """Longest time for one group's rewards, retries included."""
    ready_timeout_seconds: Seconds = 60.0
    """Longest wait for all servers to be ready at the start."""
    max_failed_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a step's or of held-out responses that may stay ungraded; above it the run stops. They never train."""

    clip: tuple[float, float] | None = None
    """Rewards are kept within these bounds, before anything is made of them."""
    overlong_buffer_len: NotNegative = 0
    """Tokens before generate_max_len over which up to overlong_penalty is taken off the reward; 0: nothing is."""
    overlong_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Taken off the reward of a response as long as generate_max_len."""

    @field_validator("url", mode="before")
    @classmethod
    def _list_one_address(cls, url: object) -> object:
        return [url] if isinstance(url, str) else url


class AlgorithmConfig(Section):
    """How rewards become a loss."""

    advantage_estimator: str = "grpo"
    """grpo, dr_grpo, rloo, reinforce, reinforce++, reinforce++-baseline, gae (trains a critic), or an import path."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount of a token's reward for each token before it (gae only)."""
    lambd: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Lambda of gae; 1: return minus value, 0: the error of one value; between: less variance, more bias."""
    policy_loss: str = "ppo"
    """ppo: clipped token ratios; gspo: clipped response ratios; cispo: clipped weights; or an import path."""
    loss_aggregation: Literal["token", "sequence", "constant"] = "token"
    """Mean over tokens; over responses of means over their tokens; sum / (responses x generate_max_len)."""
    eps_clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The probability ratio is clipped below at 1 - eps_clip_low."""
    eps_clip_high: Annotated[float, Field(gt=0)] = 0.2
    """The probability ratio is clipped above at 1 + eps_clip_high."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Where an advantage is negative, a token's loss is at most dual_clip times its size; null: unbounded."""
    init_kl_coef: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the KL divergence from the reference; 0 runs without a reference model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """How KL is estimated from a token's log-probs; k1 only with `kl_in: reward`."""
    kl_in: Literal["loss", "reward"] = "loss"
    """loss: a term for each token; reward: the sum over a response is taken off its reward (gae: each token's own)."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """Mean KL of a token, in nats, that the weight is adapted to from init_kl_coef on."""
    kl_horizon: Positive = 10000
    """Responses over which the weight is adapted by 20 % at most."""
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the entropy, which the loss is lowered by."""
    mask_truncated: bool = False
    """Responses that the length limit ended do not train; their rewards count in the statistics."""
    dynamic_sampling_rounds: Positive = 1
    """Rounds of prompts, at most, until enough groups have both right and wrong answers; 1: all groups train."""
    max_epochs: Positive = 1
    """Passes over a step's responses; each makes an optimizer step for every train_batch_size of them."""
    reward_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a running mean and deviation over steps in each group's own; 0: the group's own alone."""

    @field_validator("advantage_estimator")
    @classmethod
    def _check_estimator(cls, name: str) -> str:
        return _known_or_import_path(name, ADVANTAGE_ESTIMATORS)

    @field_validator("policy_loss")
    @classmethod
    def _check_policy_loss(cls, name: str) -> str:
        return _known_or_import_path(name, POLICY_LOSSES)


class OffPolicyConfig(Section):
    """Correction for what the engines sampled from, where it is not what is trained."""

    importance: Literal["auto", "none", "token", "sequence"] = "auto"
    """Losses are multiplied by the ratio of trainer and engine; auto: of the token if rollout.max_staleness > 0."""
    importance_max: Annotated[float, Field(ge=1)] = 2.0
    """Bound on that ratio."""
    rejection: Literal["none", "token", "sequence"] = "none"
    """Tokens whose ratio is out of bounds do not train; sequence: responses, by the geometric mean of their tokens'."""
    rejection_low: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Lowest ratio that trains."""
    rejection_high: Annotated[float, Field(gt=1)] = 5.0
    """Highest ratio that trains."""


class CriticConfig(Section):
    """The value model, with `advantage_estimator: gae` alone; the rest is as `model`, `optimizer` and `policy` say."""

    path: Path | None = None
    """Folder of the model that it starts from, with the policy's tokenizer; null: model.path."""
    learning_rate: Annotated[float, Field(gt=0)] = 9e-6
    """Highest learning rate."""
    value_clip: Annotated[float, Field(gt=0)] | None = 0.5
    """Farthest that values move from those before the step's updates and still learn; null: unbounded."""
    warmup_steps: NotNegative = 0
    """First steps, in which the critic alone trains."""


class EvaluationConfig(Section):
    """Accuracy on held-out prompts, before the first step, after the last, and on the way."""

    n_samples_per_prompt: Positive = 4
    """Responses a prompt for pass@1 at the training temperature."""
    base_pass_at: NotNegative = 0
    """Also report pass@k of the untrained model with k = this many samples; 0 = do not."""
    eval_steps: NotNegative = 0
    """Also measure every so many steps, and keep the checkpoint that was best; 0 = do not."""


class DebugConfig(Section):
    """One half of a step without the other; docs/reproducibility.md."""

    record: Path | None = None
    """Folder that every step is written to just before its update."""
    replay: Path | None = None
    """Folder of such records: what stands there is read instead of made, and no engine is started."""
    replay_from: Literal["rollout", "reward", "advantage"] = "rollout"
    """What is read: rollout: responses; reward: their scores, too; advantage: all that the update reads."""
    rollout_only: bool = False
    """Updates are measured, not made: the weights stay as they are."""

    def reads(self, boundary: str) -> bool:
        """Whether what a stage would make, up to this boundary, is read."""
        boundaries = ("rollout", "reward", "advantage")
        return self.replay is not None and boundaries.index(boundary) <= boundaries.index(self.replay_from)


class TrainConfig(Section):
    """Everything about one run of reinforcement learning."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    off_policy: OffPolicyConfig = OffPolicyConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    critic: CriticConfig = CriticConfig()
    policy: PolicyConfig = PolicyConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    debug: DebugConfig = DebugConfig()
    num_steps: Positive
    """Steps of prompts -> rollout -> rewards -> advantages -> update -> weight sync."""

    @property
    def importance(self) -> str:
        """`off_policy.importance`, with what auto stands for."""
        auto = "token" if self.rollout.max_staleness > 0 else "none"
        return auto if self.off_policy.importance == "auto" else self.off_policy.importance

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps made of one step's responses."""
        responses = self.rollout.rollout_batch_size * self.rollout.n_samples_per_prompt
        return self.algorithm.max_epochs * responses // self.policy.train_batch_size

    @property
    def policy_updates(self) -> int:
        """Optimizer steps of the policy in the whole run; a critic makes more by those of its warm-up."""
        return (self.num_steps - self.critic.warmup_steps) * self.updates_per_step

    @property
    def has_reference(self) -> bool:
        """Whether the algorithm needs reference log-probs."""
        return self.algorithm.init_kl_coef > 0

    @property
    def has_critic(self) -> bool:
        """Whether values are learned."""
        return self.algorithm.advantage_estimator == "gae"

    @property
    def critic_model(self) -> ModelConfig:
        """The model that the critic starts from."""
        return self.model.model_copy(update={"path": self.critic.path or self.model.path})
