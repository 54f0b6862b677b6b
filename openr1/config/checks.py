"""What must fit together in a configuration; every check names its numbers."""

from openr1.config.dpo import DpoConfig
from openr1.config.sections import ModelConfig, OptimizerConfig, PolicyConfig
from openr1.config.sft import SftConfig
from openr1.config.train import GROUP_ESTIMATORS, POLICY_LOSSES, AlgorithmConfig, CriticConfig, TrainConfig
from openr1.errors import ConfigError
from openr1.runtime.import_path import import_function
from reward_server.functions.module import ModuleError, inspect_module


def check_train(config: TrainConfig) -> list[str]:
    """Check what spans several keys; returns one line a check, with its numbers, for `--dry-run`.

    Raises:
        ConfigError: Numbers do not fit together; the message gives them and what to change.
    """
    rollout, policy = config.rollout, config.policy
    responses = rollout.rollout_batch_size * rollout.n_samples_per_prompt
    product = f"rollout_batch_size {rollout.rollout_batch_size} x n_samples_per_prompt {rollout.n_samples_per_prompt}"
    if responses % policy.train_batch_size:
        raise ConfigError(
            f"policy.train_batch_size {policy.train_batch_size} does not divide rollout.{product} = {responses}; "
            f"the largest that does is {_largest_divisor(responses, policy.train_batch_size)}"
        )
    if rollout.num_engines is not None and rollout.rollout_batch_size < rollout.num_engines:
        raise ConfigError(
            f"rollout.num_engines {rollout.num_engines} is more than rollout.rollout_batch_size "
            f"{rollout.rollout_batch_size}; some engines would have no prompt"
        )
    if config.evaluation.eval_steps and config.data.held_out is None:
        raise ConfigError("evaluation.eval_steps needs data.held_out, the prompts to measure on")
    _check_extensions(config)
    _check_algorithm(config)
    _check_debug(config)
    longest = config.data.prompt_max_len + rollout.generate_max_len
    return [
        f"train_batch_size {policy.train_batch_size} divides {product} = {responses}: "
        f"{config.updates_per_step} update(s) a step",
        *_check_updates(config.model, policy, config.optimizer, config.policy_updates),
        f"prompt_max_len {config.data.prompt_max_len} + generate_max_len {rollout.generate_max_len} "
        f"= {longest} tokens at most",
    ]


def _check_extensions(config: TrainConfig) -> None:
    """Import what the config names by import path: whatever is wrong with it shows before anything starts."""
    named = {
        "algorithm.advantage_estimator": config.algorithm.advantage_estimator,
        "algorithm.policy_loss": config.algorithm.policy_loss,
        "rollout.env": config.rollout.env,
    }
    for key, name in named.items():
        if ":" not in name:
            continue
        try:
            import_function(name)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
    if config.reward.module is not None:
        try:
            inspect_module(config.reward.module)
        except ModuleError as error:
            raise ConfigError(f"reward.module: {error}") from error


def _check_algorithm(config: TrainConfig) -> None:
    """Refuse settings of rewards and losses that contradict each other or have no effect together."""
    algorithm, rollout = config.algorithm, config.rollout
    estimator, samples = algorithm.advantage_estimator, rollout.n_samples_per_prompt
    if samples == 1 and estimator in GROUP_ESTIMATORS:
        raise ConfigError(
            f"rollout.n_samples_per_prompt is 1, and {estimator} compares the responses to a prompt: give 2 or more, "
            "or advantage_estimator reinforce++"
        )
    if algorithm.dynamic_sampling_rounds > 1 and samples == 1:
        raise ConfigError(
            "algorithm.dynamic_sampling_rounds needs rollout.n_samples_per_prompt 2 or more: one answer cannot differ"
        )
    if algorithm.reward_momentum > 0 and estimator != "grpo":
        raise ConfigError(f"algorithm.reward_momentum is for grpo; with {estimator} set it to 0")
    if algorithm.dual_clip is not None and algorithm.policy_loss in ("cispo", "gmpo", "sapo"):
        raise ConfigError(
            f"algorithm.dual_clip is for policy_loss ppo and gspo; with {algorithm.policy_loss} leave it out"
        )
    _check_clips(algorithm)
    if config.importance != "none" and rollout.top_p < 1:
        raise ConfigError(
            f"off_policy.importance {config.importance} needs rollout.top_p 1: under a truncated distribution the "
            "ratios are too low"
        )
    if rollout.in_flight == "drain" and rollout.max_staleness == 0:
        raise ConfigError(
            "rollout.in_flight drain is for rollout.max_staleness above 0: without it nothing is in flight at a push"
        )
    if config.placement.layout == "half" and rollout.max_staleness == 0:
        raise ConfigError(
            "placement.layout half needs rollout.max_staleness 1 or more: otherwise each half waits for the other"
        )
    _check_components(config)
    _check_sleep(config)
    _check_critic(config)
    _check_kl(config)
    _check_teacher(config)
    _check_rewards(config)


def _check_clips(algorithm: AlgorithmConfig) -> None:
    """Refuse bounds that the policy loss does not have."""
    loss, default = algorithm.policy_loss, AlgorithmConfig()
    if algorithm.soft_clip != default.soft_clip and loss in POLICY_LOSSES and loss != "sapo":
        raise ConfigError(f"algorithm.soft_clip is for policy_loss sapo; with {loss} leave it out")
    bounds = (algorithm.eps_clip_low, algorithm.eps_clip_high)
    if loss == "sapo" and bounds != (default.eps_clip_low, default.eps_clip_high):
        raise ConfigError(
            "algorithm.eps_clip_low and eps_clip_high have no effect with policy_loss sapo: leave them out"
        )


def _check_components(config: TrainConfig) -> None:
    """Refuse what works on the sum of a reward's components, which gdpo does not read."""
    algorithm, reward = config.algorithm, config.reward
    if algorithm.advantage_estimator != "gdpo":
        if algorithm.component_weights is not None:
            raise ConfigError(
                f"algorithm.component_weights is for gdpo; with {algorithm.advantage_estimator} leave it out, and "
                "weight components in the reward server"
            )
        return
    on_sum = {
        "reward.clip": reward.clip is not None,
        "reward.overlong_buffer_len": reward.overlong_buffer_len > 0,
        "algorithm.kl_in reward": algorithm.kl_in == "reward",
    }
    for key, is_set in on_sum.items():
        if is_set:
            raise ConfigError(
                f"{key} changes the sum of the reward's components, which advantage_estimator gdpo does not read: "
                "leave it out"
            )


def _check_sleep(config: TrainConfig) -> None:
    """Refuse turns in a GPU's memory where engines and training do not take turns, or training state cannot move."""
    if not config.placement.sleep:
        return
    layout, ahead, stage = config.placement.layout, config.rollout.max_staleness, config.policy.zero_stage
    if layout in ("separate", "half"):
        raise ConfigError(
            f"placement.sleep is for engines that share their GPUs with training, and placement.layout {layout} gives "
            "them GPUs of their own: take layout colocated, or leave sleep out"
        )
    if ahead > 0:
        raise ConfigError(
            f"placement.sleep needs rollout.max_staleness 0, and it is {ahead}: an engine that samples ahead of "
            "training cannot release its memory to it"
        )
    if config.debug.reads("rollout"):
        raise ConfigError("placement.sleep needs engines, and debug.replay starts none: leave it out")
    if stage != 2 and config.optimizer.offload == "none":
        raise ConfigError(
            f"placement.sleep needs policy.zero_stage 2, and it is {stage}: at other stages DeepSpeed cannot move the "
            "optimizer state of its usual AdamW to host memory and back; or keep it there, optimizer.offload cpu"
        )


def _check_critic(config: TrainConfig) -> None:
    algorithm, critic = config.algorithm, config.critic
    lambdas = (algorithm.lambd_alpha, algorithm.critic_lambd)
    if not config.has_critic and (
        critic != CriticConfig() or algorithm.gamma * algorithm.lambd != 1 or lambdas != (None, None)
    ):
        raise ConfigError(
            "critic and algorithm's gamma, lambd, lambd_alpha and critic_lambd are for gae; with "
            f"{algorithm.advantage_estimator} leave them out"
        )
    if algorithm.lambd_alpha is not None and algorithm.lambd != AlgorithmConfig().lambd:
        raise ConfigError("algorithm.lambd has no effect with lambd_alpha, which gives each response its own")
    if critic.warmup_steps >= config.num_steps:
        raise ConfigError(
            f"critic.warmup_steps {critic.warmup_steps} is not below num_steps {config.num_steps}: the policy would "
            "never train"
        )


def _check_kl(config: TrainConfig) -> None:
    algorithm, rollout = config.algorithm, config.rollout
    responses = rollout.rollout_batch_size * rollout.n_samples_per_prompt
    if algorithm.kl_in == "reward" and algorithm.advantage_estimator == "grpo":
        raise ConfigError(
            "algorithm.kl_in reward is not for grpo: divided by a group's own deviation, the rounding of KL would be "
            "as large as a correct answer; take rloo or reinforce++-baseline, or kl_in loss"
        )
    if algorithm.kl_in != "loss" and rollout.top_p < 1:
        raise ConfigError(
            f"algorithm.kl_in {algorithm.kl_in} needs rollout.top_p 1: log-probs of a truncated distribution are "
            "higher, which would count as KL"
        )
    if algorithm.kl_in == "loss" and algorithm.kl_estimator == "k1":
        raise ConfigError(
            "algorithm.kl_estimator k1 has no gradient on average in the loss: take k2 or k3, or another kl_in"
        )
    if algorithm.kl_target is not None and algorithm.init_kl_coef == 0:
        raise ConfigError(
            "algorithm.kl_target adapts the KL coefficient: set init_kl_coef above 0, where it starts from"
        )
    if algorithm.kl_target is not None and algorithm.kl_horizon < responses:
        raise ConfigError(
            f"algorithm.kl_horizon {algorithm.kl_horizon} is below the {responses} responses of a step: the KL "
            "coefficient would jump"
        )


def _check_teacher(config: TrainConfig) -> None:
    """Refuse teachers that do not teach, and lessons without a teacher."""
    algorithm = config.algorithm
    if config.reference.path is not None and not config.has_reference:
        raise ConfigError("reference.path has no effect with algorithm.init_kl_coef 0: raise it, or leave the path out")
    if algorithm.advantage_estimator == "none" and not config.has_teacher:
        raise ConfigError(
            "algorithm.advantage_estimator none learns from a teacher only: give another model than model.path in "
            "reference.path, or take grpo"
        )
    if algorithm.advantage_estimator == "none":
        of_rewards = {
            "algorithm.kl_in reward": algorithm.kl_in == "reward",
            "algorithm.dynamic_sampling_rounds": algorithm.dynamic_sampling_rounds > 1,
            "reward.clip": config.reward.clip is not None,
            "reward.overlong_buffer_len": config.reward.overlong_buffer_len > 0,
        }
        for key, is_set in of_rewards.items():
            if is_set:
                raise ConfigError(f"{key} is for rewards, which advantage_estimator none does not read: leave it out")
    if algorithm.kl_in != "advantage":
        return
    if not config.has_reference:
        raise ConfigError("algorithm.kl_in advantage has no effect with algorithm.init_kl_coef 0: raise it")
    if config.has_critic:
        raise ConfigError(
            "algorithm.kl_in advantage is for estimators of whole responses: gae spreads the KL over tokens with "
            "kl_in reward"
        )
    if algorithm.policy_loss in ("gspo", "gmpo"):
        raise ConfigError(
            f"algorithm.kl_in advantage judges each token by itself, and policy_loss {algorithm.policy_loss} has one "
            "ratio for all tokens of a response: take ppo, cispo or sapo"
        )
    if algorithm.kl_estimator != "k1":
        raise ConfigError(
            f"algorithm.kl_in advantage needs kl_estimator k1, and it is {algorithm.kl_estimator}: only the difference "
            "of log-probs itself, of either sign, gives the gradient of the KL divergence there"
        )


def _check_rewards(config: TrainConfig) -> None:
    reward, longest = config.reward, config.rollout.generate_max_len
    if reward.shadow is not None and config.debug.reads("reward"):
        raise ConfigError("reward.shadow needs a reward server, and debug.replay_from reads its grades: leave one out")
    if reward.clip is not None and reward.clip[0] >= reward.clip[1]:
        raise ConfigError(f"reward.clip is {reward.clip}: the first bound must be below the second")
    if reward.overlong_buffer_len >= longest:
        raise ConfigError(
            f"reward.overlong_buffer_len {reward.overlong_buffer_len} is not below rollout.generate_max_len {longest}"
        )
    for key, flag, value in (("server_config", "config", reward.server_config), ("module", "module", reward.module)):
        if reward.url is not None and value is not None:
            raise ConfigError(
                f"reward.{key} is for the server that a run starts itself, and reward.url names one that runs "
                f"already: start that one with `serve --{flag}`, or leave one of them out"
            )


def _check_debug(config: TrainConfig) -> None:
    """Refuse recording and replaying where they cannot be exact."""
    debug, ahead = config.debug, config.rollout.max_staleness
    if debug.replay is None and debug.replay_from != "rollout":
        raise ConfigError("debug.replay_from needs debug.replay, the folder of records")
    if debug.replay is not None and (debug.record is not None or debug.rollout_only):
        also = "debug.record" if debug.record is not None else "debug.rollout_only"
        raise ConfigError(f"debug.replay and {also} exclude each other")
    if ahead > 0 and (debug.record is not None or debug.replay is not None):
        raise ConfigError(f"debug.record and debug.replay need rollout.max_staleness 0, and it is {ahead}")
    if debug.replay is not None and config.evaluation.eval_steps > 0:
        raise ConfigError("evaluation.eval_steps needs engines, and debug.replay starts none: set it to 0")


def check_dpo(config: DpoConfig, updates: int | None = None) -> list[str]:
    """As `check_sft`, for preferences; `policy.train_batch_size` counts pairs."""
    if config.loss != "simpo" and config.target_margin != DpoConfig.model_fields["target_margin"].default:
        raise ConfigError(f"target_margin is for loss simpo; with {config.loss} leave it out")
    return _check_updates(config.model, config.policy, config.optimizer, updates)


def check_sft(config: SftConfig, updates: int | None = None) -> list[str]:
    """As `check_train`, for a supervised run; `updates` is its number of optimizer steps, once the data is read."""
    if config.eval_steps and config.data.held_out is None:
        raise ConfigError("eval_steps needs data.held_out, the rows to measure the loss on")
    return _check_updates(config.model, config.policy, config.optimizer, updates)


def _check_updates(
    model: ModelConfig, policy: PolicyConfig, optimizer: OptimizerConfig, updates: int | None
) -> list[str]:
    if policy.zero_stage == 0 and model.dtype != "float32":
        raise ConfigError(
            "policy.zero_stage 0 needs model.dtype float32: DeepSpeed adds up bfloat16 gradients in float32 "
            "from stage 1 on; take zero_stage 1"
        )
    if policy.zero_stage == 0 and optimizer.offload != "none":
        raise ConfigError(
            f"optimizer.offload {optimizer.offload} is for optimizer state that ZeRO manages, and policy.zero_stage is "
            "0; take zero_stage 1 to 3, or offload none"
        )
    if policy.num_ranks is not None and policy.train_batch_size < policy.num_ranks:
        raise ConfigError(
            f"policy.train_batch_size {policy.train_batch_size} is less than policy.num_ranks {policy.num_ranks}; "
            "every rank needs a response"
        )
    if model.attention == "flash_attention_2" and (not model.packing or model.dtype != "bfloat16"):
        raise ConfigError(
            "model.attention flash_attention_2 needs model.packing true and model.dtype bfloat16, and they are "
            f"{str(model.packing).lower()} and {model.dtype}; set them, or model.attention auto"
        )
    ranks = "the policy ranks that fit" if policy.num_ranks is None else f"{policy.num_ranks} policy rank(s)"
    lines = [f"train_batch_size {policy.train_batch_size} over {ranks}"]
    if updates is not None:
        if optimizer.lr_warmup_steps >= updates:
            raise ConfigError(
                f"optimizer.lr_warmup_steps {optimizer.lr_warmup_steps} is not below the {updates} optimizer steps"
            )
        lines.append(f"lr_warmup_steps {optimizer.lr_warmup_steps} of {updates} optimizer steps")
    return lines


def _largest_divisor(number: int, at_most: int) -> int:
    return next(divisor for divisor in range(min(number, at_most), 0, -1) if number % divisor == 0)
