"""What a run writes to its disk, and whether there is room for it."""

from openr1.config.dpo import DpoConfig
from openr1.config.sections import ModelConfig
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig
from openr1.errors import MissingError
from openr1.plan.memory import FLOAT32
from openr1.plan.traces import Traces, reference_settings
from openr1.runtime.console import say
from openr1.runtime.disk import free_bytes, in_gib, used_bytes
from openr1.runtime.files import step_paths

RunConfigs = TrainConfig | SftConfig | DpoConfig
TEXT_BYTES = 4
"""Of a token of text."""
COLUMN_BYTES = 600
"""Of a row of rollouts without its texts."""
COMPRESSION = 4
"""By which gzip divides rollouts, at least."""


def checkpoint_bytes(config: RunConfigs, traces: Traces) -> int:
    """One checkpoint: the training state of policy and critic, and the exported model."""
    policy, whole = traces.model(config.model), traces.model(reference_settings(config.model))
    adapters = 0 if config.model.lora is None else policy.trained_elements * policy.itemsize
    one = whole.weight_bytes + adapters + _state_bytes(config.model, config.policy.zero_stage, traces)
    if isinstance(config, TrainConfig) and config.has_critic:
        one += _state_bytes(config.critic_model, config.policy.zero_stage, traces, values=True)
    return one


def _state_bytes(settings: ModelConfig, zero_stage: int, traces: Traces, values: bool = False) -> int:
    """Weights, and AdamW's two moments and master weights in float32.

    ZeRO 0 has no master weights besides the weights, and ZeRO 3 writes no others of what it trains.
    """
    model = traces.model(settings, values)
    trained = model.trained_elements
    weights = model.weight_bytes - (trained * model.itemsize if zero_stage == 3 else 0)
    return weights + (2 if zero_stage == 0 else 3) * FLOAT32 * trained


def count_checkpoints(config: RunConfigs, num_steps: int) -> int:
    """Checkpoints that exist at one time: those kept, the best one, the one being written; at most all of the run's."""
    eval_steps = config.evaluation.eval_steps if isinstance(config, TrainConfig) else 0
    due = -(-num_steps // (config.checkpoint.save_steps or num_steps))
    evaluated = num_steps // eval_steps if eval_steps else 0
    return min(config.checkpoint.keep + 1 + (eval_steps > 0), due + evaluated)


def record_bytes(config: RunConfigs, num_steps: int) -> int:
    """Rollouts that are kept, for responses and prompts of half their greatest lengths; 0 without rollouts."""
    if not isinstance(config, TrainConfig):
        return 0
    rollout, tracking = config.rollout, config.tracking
    tokens = (config.data.prompt_max_len + rollout.generate_max_len) // 2
    step = rollout.rollout_batch_size * rollout.n_samples_per_prompt * (TEXT_BYTES * tokens + COLUMN_BYTES)
    steps = min(num_steps, tracking.keep_rollouts or num_steps)
    return steps * step // (COMPRESSION if tracking.compress_rollouts else 1)


def check_room(config: RunConfigs, num_steps: int, traces: Traces | None = None) -> int:
    """Check that the disk of the run folder has room for what a run writes; returns the size of a checkpoint in bytes.

    What is there of a run that is resumed counts as written. With `checkpoint.on_failed_save: continue` too little room
    is only said.

    Raises:
        MissingError: There is too little; the message has the numbers and what to lower.
    """
    traces, folder = traces or Traces(None), config.run.folder
    one, count = checkpoint_bytes(config, traces), count_checkpoints(config, num_steps)
    # SFT and DPO export the model once more at their end.
    last = 0 if isinstance(config, TrainConfig) else traces.model(reference_settings(config.model)).weight_bytes
    records = record_bytes(config, num_steps)
    there = sum(used_bytes(path) for _, path in step_paths(folder / "checkpoints"))
    checkpoints = max(0, one * count + last - there)
    needed = checkpoints + max(0, records - used_bytes(folder / "rollouts"))
    free = free_bytes(folder / "checkpoints")
    if free >= needed:
        return one
    text = (
        f"{folder}: {in_gib(free)} are free there, and the run needs {in_gib(needed)}: {count} checkpoint(s) of "
        f"{in_gib(one)} and rollouts of {in_gib(records)}, less what is there; free some, lower checkpoint.keep or "
        "tracking.keep_rollouts, or choose another run.output_dir"
    )
    if config.checkpoint.on_failed_save == "stop":
        raise MissingError(text)
    say(f"warning: {text}")
    return one
