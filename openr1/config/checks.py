"""What must fit together in a configuration; every check names its numbers."""

from openr1.config.fixed_data import DpoConfig, SftConfig
from openr1.config.train import CriticConfig, ModelConfig, OptimizerConfig, PolicyConfig, TrainConfig
from openr1.errors import ConfigError


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
    if rollout.rollout_batch_size < rollout.num_engines:
        raise ConfigError(
            f"rollout.num_engines {rollout.num_engines} is more than rollout.rollout_batch_size "
            f"{rollout.rollout_batch_size}; some engines would have no prompt"
        )
    if config.evaluation.eval_steps and config.data.held_out is None:
        raise ConfigError("evaluation.eval_steps needs data.held_out, the prompts to measure on")
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


def _check_algorithm(config: TrainConfig) -> None:
    """Refuse settings of rewards and losses that say nothing together, or the wrong thing."""
    algorithm, reward, rollout = config.algorithm, config.reward, config.rollout
    estimator, samples = algorithm.advantage_estimator, rollout.n_samples_per_prompt
    responses, clip, longest = rollout.rollout_batch_size * samples, reward.clip, rollout.generate_max_len
    by_reward = algorithm.kl_in == "reward"
    wrong = {
        f"rollout.n_samples_per_prompt is 1, and {estimator} compares the responses to a prompt: give 2 or more, or "
        "advantage_estimator reinforce++": samples == 1 and estimator not in ("reinforce", "reinforce++", "gae"),
        f"critic, algorithm.gamma and algorithm.lambd are for gae; with {estimator} leave them out": (
            not config.has_critic and (config.critic != CriticConfig() or algorithm.gamma * algorithm.lambd != 1)
        ),
        f"critic.warmup_steps {config.critic.warmup_steps} is not below num_steps {config.num_steps}: the policy would "
        "never train": config.critic.warmup_steps >= config.num_steps,
        f"algorithm.reward_momentum is for grpo; with {estimator} set it to 0": (
            algorithm.reward_momentum > 0 and estimator != "grpo"
        ),
        "algorithm.kl_in reward is not for grpo: divided by a group's own deviation, the rounding of KL would be as "
        "large as a right answer; take rloo or reinforce++-baseline, or kl_in loss": by_reward and estimator == "grpo",
        "algorithm.kl_in reward needs rollout.top_p 1: log-probs of a cut distribution are higher, which would count "
        "as KL": by_reward and rollout.top_p < 1,
        f"off_policy.importance {config.importance} needs rollout.top_p 1: of a cut distribution ratios are too low": (
            config.importance != "none" and rollout.top_p < 1
        ),
        "algorithm.dynamic_sampling_rounds needs rollout.n_samples_per_prompt 2 or more: one answer cannot differ": (
            algorithm.dynamic_sampling_rounds > 1 and samples == 1
        ),
        "rollout.in_flight drain is for rollout.max_staleness above 0: without it nothing is in flight at a push": (
            rollout.in_flight == "drain" and rollout.max_staleness == 0
        ),
        "algorithm.kl_estimator k1 has no gradient on average in the loss: take k2 or k3, or kl_in reward": (
            not by_reward and algorithm.kl_estimator == "k1"
        ),
        "algorithm.kl_target adapts the weight of KL: give init_kl_coef above 0 to begin with": (
            algorithm.kl_target is not None and algorithm.init_kl_coef == 0
        ),
        f"algorithm.kl_horizon {algorithm.kl_horizon} is below the {responses} responses of a step: the weight of KL "
        "would jump": algorithm.kl_target is not None and algorithm.kl_horizon < responses,
        "algorithm.dual_clip is for policy_loss ppo and gspo: cispo bounds its weights itself": (
            algorithm.dual_clip is not None and algorithm.policy_loss == "cispo"
        ),
        f"reward.clip is {clip}: the first bound must be below the second": clip is not None and clip[0] >= clip[1],
        f"reward.overlong_buffer_len {reward.overlong_buffer_len} is not below rollout.generate_max_len {longest}": (
            reward.overlong_buffer_len >= longest
        ),
    }
    _refuse(wrong)


def _check_debug(config: TrainConfig) -> None:
    """Refuse records and replays that cannot be what they say."""
    debug, ahead = config.debug, config.rollout.max_staleness
    also = "debug.record" if debug.record is not None else "debug.rollout_only"
    wrong = {
        "debug.replay_from needs debug.replay, the folder of records": (
            debug.replay is None and debug.replay_from != "rollout"
        ),
        f"debug.replay and {also} exclude each other": (
            debug.replay is not None and (debug.record is not None or debug.rollout_only)
        ),
        f"debug.record and debug.replay need rollout.max_staleness 0, and it is {ahead}": (
            ahead > 0 and (debug.record is not None or debug.replay is not None)
        ),
        "evaluation.eval_steps needs engines, and debug.replay starts none: set it to 0": (
            debug.replay is not None and config.evaluation.eval_steps > 0
        ),
    }
    _refuse(wrong)


def _refuse(wrong: dict[str, bool]) -> None:
    """Raise the first message that applies."""
    for message, found in wrong.items():
        if found:
            raise ConfigError(message)


def check_dpo(config: DpoConfig, updates: int | None = None) -> list[str]:
    """As `check_sft`, for preferences; `policy.train_batch_size` counts pairs."""
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
            "policy.zero_stage 0 works with model.dtype float32 alone: DeepSpeed adds up bfloat16 gradients in float32 "
            "from stage 1 on; take zero_stage 1"
        )
    if policy.train_batch_size < policy.num_ranks:
        raise ConfigError(
            f"policy.train_batch_size {policy.train_batch_size} is less than policy.num_ranks {policy.num_ranks}; "
            "every rank needs a response"
        )
    lines = [f"train_batch_size {policy.train_batch_size} over {policy.num_ranks} policy rank(s)"]
    if updates is not None:
        if optimizer.lr_warmup_steps >= updates:
            raise ConfigError(
                f"optimizer.lr_warmup_steps {optimizer.lr_warmup_steps} is not below the {updates} optimizer steps"
            )
        lines.append(f"lr_warmup_steps {optimizer.lr_warmup_steps} of {updates} optimizer steps")
    return lines


def _largest_divisor(number: int, at_most: int) -> int:
    return next(divisor for divisor in range(min(number, at_most), 0, -1) if number % divisor == 0)
