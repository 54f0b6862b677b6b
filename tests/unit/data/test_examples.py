"""Supervised rows: how they are rendered, and which are refused or dropped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from openr1.config.sft import SftDataConfig
from openr1.data.examples import Example, load_examples, to_batch
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError


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


def test_examples_end_with_the_end_token(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a model that never learns to stop, and a prompt that is rendered otherwise than for a rollout."""
    path = write(tmp_path, "<think>二</think>\n<answer>2</answer>", "")
    (first, second), _ = load_examples(path, tokenizer, data())
    prompt = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(first.prompt_ids) == prompt
    assert tokenizer.decode(first.response_ids) == "<think>二</think>\n<answer>2</answer><|im_end|>"
    assert first.response_ids.count(tokenizer.eos_token_id) == 1
    assert second == Example(first.prompt_ids, [tokenizer.eos_token_id])


@pytest.mark.parametrize("pad", ["<|im_end|>", None])
def test_a_pad_token_that_is_no_other_token(
    tmp_path: Path, tiny_model: Callable[[bool], Path], pad: str | None
) -> None:
    """Catches a mask of `!= pad`, under which a model whose padding is its end token never learns to stop, and a
    tokenizer without padding that cannot be used.
    """
    folder = Path(shutil.copytree(tiny_model(True), tmp_path / "model"))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": pad}))
    tokenizer = load_tokenizer(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.pad_token_id == (end if pad else None)
    examples, _ = load_examples(write(tmp_path, "2", "2 2 2"), tokenizer, data())
    batch = to_batch(examples)
    for row, example in enumerate(examples):
        last = len(example.prompt_ids) + len(example.response_ids) - 1
        assert batch.input_ids[row, last] == end
        assert batch.response_mask[row].nonzero().flatten().tolist() == list(range(len(example.prompt_ids), last + 1))


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


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (None, "no column `response`"),
        (4, "`response` must be a string, found 4"),
        (["2"], "`response` must be a string"),
    ],
)
def test_row_without_response(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, response: Any, told: str) -> None:
    """Catches a dataset of prompts that is given where responses are needed."""
    path = write(tmp_path, "2", response)
    with pytest.raises(ConfigError) as caught:
        load_examples(path, tokenizer, data())
    assert str(caught.value).startswith(f"{path}:2: {told}")


def test_rows_of_a_batch() -> None:
    """Catches a prompt that trains, a response that does not, and rows out of order."""
    batch = to_batch([Example([1, 2], [3]), Example([4], [5, 6, 7])])
    assert batch.input_ids.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7]]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 0], [0, 1, 1, 1]]
