"""Whether a model folder can be trained, sampled and exported: found out from its small files, before anything starts.

What would otherwise fail after a minute in an engine, on the GPU without a reason, or at the end of the training.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from openr1.config.sections import ModelConfig
from openr1.data.chat import end_token_ids, sample_texts
from openr1.data.model_folder import check_trainable, export_generation_config, read_text_config
from openr1.data.template import OWN_TEMPLATE, ChatTemplate
from openr1.data.tokenizer import load_tokenizer
from openr1.data.weight_files import check_weights
from openr1.errors import ConfigError
from openr1.workers.rope import check_context_length


@dataclass(frozen=True)
class CheckedModel:
    """The tokenizer of a folder that passed, and what was found.

    Attributes:
        path: The folder.
        tokenizer: See `load_tokenizer`.
        num_embeddings: Rows of the embedding; a model of more tokens reads beyond them.
        findings: Lines for `--dry-run`.
    """

    path: Path
    tokenizer: PreTrainedTokenizerBase
    num_embeddings: int
    findings: list[str]

    def check_token_ids(self, source: object, texts: Iterable[Sequence[int]]) -> None:
        """Check tokenized texts from `source`, where the tokenizer has tokens for which the model has no embedding.

        Raises:
            ConfigError: A text has such a token.
        """
        if max(self.tokenizer.get_vocab().values()) >= self.num_embeddings:
            check_embeddings(self.path, self.tokenizer, self.num_embeddings, texts, f"{source}: a row")


def check_model(model: ModelConfig, longest: int, template: ChatTemplate = OWN_TEMPLATE) -> CheckedModel:
    """Check a model that is to be trained on sequences of up to `longest` tokens, with the chat template of a run.

    Raises:
        MissingError: A file is missing.
        ConfigError: The model cannot be trained, or not exported, or not with these settings.
    """
    check_trainable(model.path)
    checked = check_sampled(model.path, template)
    check_context_length(model, longest)
    stops = end_token_ids(checked.tokenizer)
    export_generation_config(model.path, stops)
    names = ", ".join(checked.tokenizer.convert_ids_to_tokens(stops))
    return CheckedModel(
        checked.path,
        checked.tokenizer,
        checked.num_embeddings,
        [*checked.findings, f"responses end with {names}; sequences of {longest} tokens fit its positions"],
    )


def check_sampled(path: Path, template: ChatTemplate = OWN_TEMPLATE) -> CheckedModel:
    """Check a model that is only to be sampled from, as in an evaluation.

    Raises:
        MissingError: A file is missing.
        ConfigError: The tokenizer, or config.json, cannot be used, or they do not fit together.
    """
    tokenizer = load_tokenizer(path, template)
    config = read_text_config(path)
    check_weights(path)
    texts = (tokenizer.encode(text, add_special_tokens=False) for text in sample_texts(tokenizer))
    check_embeddings(path, tokenizer, config.vocab_size, [*texts, end_token_ids(tokenizer)], "the chat template")
    described = f"model {path}: {config.model_type}, {config.vocab_size} embeddings, {type(tokenizer).__name__}"
    return CheckedModel(path, tokenizer, config.vocab_size, [described])


def check_embeddings(
    path: Path, tokenizer: PreTrainedTokenizerBase, num_embeddings: int, texts: Iterable[Sequence[int]], who: str
) -> None:
    """Refuse tokens beyond the embedding: an index error on the CPU, the end of the process on a GPU.

    Raises:
        ConfigError: `who` has such a token.
    """
    largest = max((max(text, default=0) for text in texts), default=0)
    if largest >= num_embeddings:
        raise ConfigError(
            f"{who} has the token {largest} {tokenizer.convert_ids_to_tokens(largest)!r}, but model.path {path} has "
            f"{num_embeddings} embeddings; resize them (resize_token_embeddings), or remove the token"
        )
