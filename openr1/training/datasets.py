"""The prompts of an RL run, checked before anything starts."""

from dataclasses import dataclass

from openr1.config.train import TrainConfig
from openr1.data.prompts import PromptFormat, load_prompts, load_tokenizer
from openr1.errors import ConfigError
from openr1.runtime.console import say
from openr1.types import Prompt
from openr1.workers.rope import check_context_length


@dataclass(frozen=True)
class Datasets:
    """Prompts to train on, and held-out prompts to evaluate on."""

    train: list[Prompt]
    held_out: list[Prompt]


def load_datasets(config: TrainConfig) -> Datasets:
    """Load prompts and check that there are enough, and that no held-out prompt is trained on.

    A replay starts no engines, so it evaluates nothing and loads no held-out prompts.

    Raises:
        MissingError: The model or a file does not exist.
        ConfigError: They do not fit together.
    """
    tokenizer = load_tokenizer(config.model.path)
    data = config.data
    for model in (config.model, config.critic_model):
        check_context_length(model, data.prompt_max_len + config.rollout.generate_max_len)
    if load_tokenizer(config.critic_model.path).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(f"critic.path {config.critic.path} has other tokens than model.path {config.model.path}")
    prompt_format = PromptFormat(data.system_prompt, data.assistant_prefix)
    train = load_prompts(data.train, tokenizer, data.prompt_max_len, prompt_format)
    if len(train) < config.rollout.rollout_batch_size:
        raise ConfigError(
            f"dataset {data.train}: {len(train)} prompts, fewer than "
            f"rollout.rollout_batch_size {config.rollout.rollout_batch_size}"
        )
    if data.held_out is not None and config.debug.replay is not None:
        say("debug.replay starts no engines: held-out prompts are not evaluated")
    if data.held_out is None or config.debug.replay is not None:
        return Datasets(train, [])
    held_out = load_prompts(data.held_out, tokenizer, data.prompt_max_len, prompt_format)
    shared = {prompt.text for prompt in train} & {prompt.text for prompt in held_out}
    if shared:
        raise ConfigError(
            f"{data.held_out}: {len(shared)} prompts are also in {data.train}; held-out prompts must be unseen"
        )
    return Datasets(train, held_out)
