"""The prompts of an RL run, checked before anything starts, and the order in which they come."""

import math
from dataclasses import dataclass, field

from openr1.config.data import SourceConfig
from openr1.config.train import TrainConfig
from openr1.data.chat import PromptFormat
from openr1.data.columns import prompt_schema
from openr1.data.difficulty import Judge
from openr1.data.fingerprint import Fingerprint, fingerprint
from openr1.data.mixture import MixedStream, Part, check_labels, with_distinct_ids
from openr1.data.model_folder import check_trainable, read_text_config
from openr1.data.prompts import PromptStream, load_prompts
from openr1.data.responses import has_unseen_opening
from openr1.data.template import run_template
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError
from openr1.inputs.model_check import CheckedModel, check_model
from openr1.interfaces import PromptSource
from openr1.runtime.console import say
from openr1.types import Prompt
from openr1.workers.rope import check_context_length


@dataclass(frozen=True)
class Datasets:
    """Prompts to train on, and held-out prompts to evaluate on.

    Attributes:
        train: The prompts of all datasets in `data.train`.
        held_out: Empty without evaluation.
        parts: The datasets of `data.train`, if there are several.
        fingerprints: Of all datasets, by path.
    """

    train: list[Prompt]
    held_out: list[Prompt]
    parts: list[Part] = field(default_factory=list)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)


def load_datasets(config: TrainConfig, task: str | None = None) -> Datasets:
    """Load prompts and check that there are enough, and that no held-out prompt is trained on.

    `task` is that of rows for which neither they nor `data.task` name one. A replay starts no engines, so it evaluates
    nothing and loads no held-out prompts.

    Raises:
        MissingError: The model or a dataset does not exist.
        ConfigError: They do not fit together.
    """
    model = check_models(config)
    data = config.data
    if has_unseen_opening(model.tokenizer):
        say("the chat template begins turns with special tokens, as gpt-oss does: graders read responses without them")
    sources = [source.model_copy(update={"task": source.task or task}) for source in data.sources]
    parts = [_load_part(source, model, config) for source in sources]
    check_labels(parts)
    parts = with_distinct_ids(parts) if len(parts) > 1 else parts
    _check_enough(parts, config.rollout.rollout_batch_size)
    train = [prompt for part in parts for prompt in part.prompts]
    read = list(sources)
    held_out: list[Prompt] = []
    if data.held_out is not None and config.debug.replay is not None:
        say("debug.replay starts no engines: held-out prompts are not evaluated")
    elif data.held_out is not None:
        read.append(data.complete(SourceConfig(path=data.held_out, task=data.task or task)))
        held_out = _load_part(read[-1], model, config).prompts
        _check_unseen(held_out, train, config)
    fingerprints = {str(source.path): fingerprint(source.path, prompt_schema(source)) for source in read}
    return Datasets(train, held_out, parts if len(parts) > 1 else [], fingerprints)


def prompt_stream(config: TrainConfig, datasets: Datasets, judge: Judge | None = None) -> PromptSource:
    """The stream of training prompts; datasets of a mixture are shuffled independently."""
    seed = config.run.seed
    if not datasets.parts:
        return PromptStream(datasets.train, seed, judge)
    seeds = [f"{seed}/{number}" for number in range(len(datasets.parts))]
    streams = [PromptStream(part.prompts, one, judge) for part, one in zip(datasets.parts, seeds, strict=True)]
    return MixedStream(list(zip(datasets.parts, streams, strict=True)))


def _load_part(source: SourceConfig, model: CheckedModel, config: TrainConfig) -> Part:
    data = config.data
    prompt_format = PromptFormat(data.system_prompt, data.assistant_prefix)
    prompts = load_prompts(source.path, model.tokenizer, data.prompt_max_len, prompt_format, prompt_schema(source))
    model.check_token_ids(source.path, (prompt.token_ids for prompt in prompts))
    return Part(str(source.path), prompts, source.weight)


def _check_enough(parts: list[Part], batch_size: int) -> None:
    """Check that each dataset has the prompts that a step takes of it."""
    whole = sum(part.weight for part in parts)
    for part in parts:
        wanted = math.ceil(batch_size * part.weight / whole)
        if len(part.prompts) < wanted:
            share = "" if len(parts) == 1 else f", of which its weight gives it {wanted}"
            raise ConfigError(
                f"dataset {part.name}: {len(part.prompts)} prompts, fewer than "
                f"rollout.rollout_batch_size {batch_size}{share}"
            )


def _check_unseen(held_out: list[Prompt], train: list[Prompt], config: TrainConfig) -> None:
    shared = {prompt.text for prompt in train} & {prompt.text for prompt in held_out}
    if shared:
        names = ", ".join(str(source.path) for source in config.data.sources)
        raise ConfigError(
            f"{config.data.held_out}: {len(shared)} prompts are also in {names}; held-out prompts must be unseen"
        )


def check_models(config: TrainConfig) -> CheckedModel:
    """Check the policy's initial model, and those of critic and reference if they are others.

    Raises:
        MissingError: A file is missing.
        ConfigError: A model cannot be used, or has other tokens than the policy's.
    """
    longest = config.data.prompt_max_len + config.rollout.generate_max_len
    template = run_template(config)
    checked = check_model(config.model, longest, template)
    for key, model in config.other_models.items():
        check_trainable(model.path)
        check_context_length(model, longest)
        known = checked.tokenizer.get_vocab()
        needed, there = min(max(known.values()) + 1, checked.num_embeddings), read_text_config(model.path).vocab_size
        if there < needed:
            raise ConfigError(f"{key} {model.path} has {there} embeddings, and the policy's tokens need {needed}")
        if load_tokenizer(model.path, template).get_vocab() != known:
            raise ConfigError(f"{key} {model.path} has other tokens than model.path {config.model.path}")
    return checked
