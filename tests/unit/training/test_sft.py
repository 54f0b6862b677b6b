"""Supervised rows, the order in which they train, and the loss that is reported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from openr1.training.fixed_data_run import num_updates
from transformers import PreTrainedTokenizerBase

from openr1.algorithms.batch import TrainBatch
from openr1.config.load import validate
from openr1.config.sft import SftConfig, SftDataConfig
from openr1.data.prompts import load_tokenizer
from openr1.errors import ConfigError
from openr1.training import sft_run
from openr1.training.sft import Example, batches, held_out_loss, load_examples, train_step
from tests.fakes import FakePolicy


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[[bool], Path]) -> PreTrainedTokenizerBase:
    """The tiny model's."""
    return load_tokenizer(tiny_model(True))


def write(folder: Path, *responses: Any) -> Path:
    """A file with a row for each response."""
    path = folder / "traces.jsonl"
    rows = [
        {"id": str(number), "prompt": "1+1?", "label": "2", "task": "countdown", "response": response}
        for number, response in enumerate(responses)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data(**values: Any) -> SftDataConfig:
    """How rows are read: of 100 tokens at most unless told otherwise."""
    return SftDataConfig(**{"train": Path("train.jsonl"), "max_len": 100, **values})


def make_config(size: int = 2, **values: Any) -> SftConfig:
    """Batches of `size` rows, in the order of the file unless told otherwise."""
    sections = {
        "run": {"name": "test", "seed": values.pop("seed", 0)},
        "model": {"path": "model"},
        "data": {"train": "train.jsonl", "shuffle": values.pop("shuffle", False)},
        "policy": {"train_batch_size": size},
    }
    return validate(SftConfig, {**sections, **values}, "test")


# Example n has the prompt (1,) and n response tokens, each 10 + n.
EXAMPLES = [Example([1], [10 + number] * number) for number in range(1, 6)]


def trained(config: SftConfig) -> list[list[int]]:
    """The numbers of the examples in each update."""
    return [[int(row[1]) - 10 for row in batch.input_ids] for batch in batches(EXAMPLES, config)]


# Rows


def test_examples_end_with_the_end_token(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a model that never learns to stop, and a prompt that is rendered otherwise than for a rollout."""
    path = write(tmp_path, "<think>二</think>\n<answer>2</answer>", "")
    (first, second), _ = load_examples(path, tokenizer, data())
    prompt = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(first.prompt_ids) == prompt
    assert tokenizer.decode(first.response_ids) == "<think>二</think>\n<answer>2</answer><|im_end|>"
    assert first.response_ids.count(tokenizer.eos_token_id) == 1
    assert second == Example(first.prompt_ids, [tokenizer.eos_token_id])


def test_system_prompt_of_examples(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a base model that is taught without the system prompt with which it is asked later."""
    (example,), _ = load_examples(write(tmp_path, "2"), tokenizer, data(system_prompt="Be brief."))
    text = tokenizer.decode(example.prompt_ids)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?")


def test_row_that_is_too_long(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a response that is cut without a word, and a limit that leaves the end token out of the count."""
    path = write(tmp_path, "2", "2222")
    examples, _ = load_examples(path, tokenizer, data())
    # The longer row: its prompt, four digits and the end token.
    length = len(examples[1].prompt_ids) + 4 + 1
    assert len(load_examples(path, tokenizer, data(max_len=length))[0]) == 2
    with pytest.raises(ConfigError) as caught:
        load_examples(path, tokenizer, data(max_len=length - 1))
    assert str(caught.value).startswith(f"{path}:2: {length} tokens, more than data.max_len {length - 1}")
    assert load_examples(path, tokenizer, data(max_len=length - 1, overlong="drop")) == (examples[:1], 1)
    with pytest.raises(ConfigError, match=r"all 2 rows are longer than data\.max_len 3"):
        load_examples(path, tokenizer, data(max_len=3, overlong="drop"))


def test_prefix_of_examples(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a prefix that trains as if the model had written it, or that is not there when it is trained on."""
    (example,), _ = load_examples(write(tmp_path, "2</think>"), tokenizer, data(assistant_prefix="<think>"))
    assert tokenizer.decode(example.prompt_ids).endswith("<|im_start|>assistant\n<think>")
    assert tokenizer.decode(example.response_ids) == "2</think><|im_end|>"


@pytest.mark.parametrize("response", [None, 4, ["2"]])
def test_row_without_response(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, response: Any) -> None:
    """Catches a dataset of prompts that is given where responses are needed."""
    path = write(tmp_path, "2", response)
    with pytest.raises(ConfigError) as caught:
        load_examples(path, tokenizer, data())
    assert str(caught.value).startswith(f"{path}:2: `response` must be a string")


# Training


@pytest.mark.parametrize(("num_examples", "size", "epochs", "updates"), [(4, 2, 1, 2), (5, 2, 3, 9), (1, 8, 2, 2)])
def test_number_of_updates(num_examples: int, size: int, epochs: int, updates: int) -> None:
    """Catches a schedule that ends early or late, because an epoch's last batch is not counted."""
    # 4 / 2 = 2; ceil(5 / 2) * 3 = 9; ceil(1 / 8) * 2 = 2.
    assert num_updates(make_config(size, max_epochs=epochs), num_examples) == updates
    assert num_updates(make_config(size, max_epochs=epochs, max_steps=3), num_examples) == min(updates, 3)


def test_order_of_the_file() -> None:
    """Catches a curriculum that is shuffled, an incomplete batch that is dropped, or an epoch that is missing."""
    config = make_config(2, max_epochs=2)
    assert trained(config) == [[1, 2], [3, 4], [5]] * 2
    assert len(trained(config)) == num_updates(config, 5)


def test_shuffled_order() -> None:
    """Catches rows drawn with repetition, the same order in every epoch, and an order that the seed does not decide."""
    config = make_config(5, shuffle=True, max_epochs=4)
    epochs = trained(config)
    assert all(sorted(epoch) == [1, 2, 3, 4, 5] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert trained(config) == epochs
    assert trained(make_config(5, shuffle=True, max_epochs=4, seed=1)) != epochs


def test_metrics_of_an_update_by_hand() -> None:
    """Catches a loss per batch or per row, and a count of tokens that leaves out prompts or counts padding."""
    policy = FakePolicy()
    rows = [train_step(policy, batch, 0.25) for batch in batches(EXAMPLES, make_config(2))]
    assert [row["sft/loss"] for row in rows] == pytest.approx([6 / 3, 6 / 7, 6 / 5])
    assert [row["sft/tokens"] for row in rows] == [5, 9, 6]
    # The fake answers z_loss_coef as the learning rate.
    assert (rows[0]["policy/grad_norm"], rows[0]["policy/learning_rate"]) == (1.5, 0.25)
    batch = policy.updates[0]
    assert batch.response_mask.int().tolist() == [[0, 1, 0], [0, 1, 1]]


def test_held_out_loss_by_hand() -> None:
    """Catches a mean of batch means: the second batch has fewer rows and other lengths."""
    # A token's log-prob is minus its number: of example n, n tokens of 10 + n. 11 + 24 + 39 + 56 + 75 = 205, of 15.
    assert held_out_loss(TokensAsLosses(), EXAMPLES, 2) == pytest.approx(205 / 15)


class TokensAsLosses(FakePolicy):
    """A policy that finds a token the less likely the higher its number."""

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Minus the tokens' numbers."""
        return -batch.input_ids * batch.response_mask


def test_dropped_rows_are_told_by_file(
    tmp_path: Path, tiny_model: Callable[[bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches one number for both files, which hides that the held-out set has shrunk."""

    def started(config: SftConfig, updates: int, resume: bool, data: str) -> None:
        raise ConfigError(data)

    monkeypatch.setattr(sft_run, "started", started)
    (tmp_path / "held_out").mkdir()
    train, held_out = write(tmp_path, "2", "3", "2" * 200), write(tmp_path / "held_out", "2", *["2" * 200] * 2)
    files = {"train": str(train), "held_out": str(held_out), "max_len": 100, "overlong": "drop"}
    run = {"name": "test", "output_dir": str(tmp_path)}
    config = make_config(run=run, model={"path": str(tiny_model(True))}, data=files)
    with pytest.raises(ConfigError) as caught:
        sft_run.run_supervised(config, resume=False)
    assert str(caught.value) == "2 examples (1 longer ones dropped), 1 held out (2 longer ones dropped)"
