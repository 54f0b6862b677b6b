"""Preference pairs: of a file, and of a run's rollouts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from openr1.config.dpo import DpoDataConfig
from openr1.data.pairs import Pair, fingerprint, load_pairs, to_batch
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import write_objects


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[[bool], Path]) -> PreTrainedTokenizerBase:
    """The tiny model's."""
    return load_tokenizer(tiny_model(True))


def write(path: Path, *rows: dict[str, Any]) -> Path:
    """A JSONL file, in a folder that need not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data(**values: Any) -> DpoDataConfig:
    """How pairs are read."""
    return DpoDataConfig(**{"train": Path("pairs.jsonl"), **values})


def test_pairs_of_a_file(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Catches a prompt without its template or prefix, a response without its end, and long pairs that are cut."""
    rows = [
        {"prompt": "1+1?", "chosen": "2", "rejected": "33"},
        {"prompt": "1+1?", "chosen": "2", "rejected": "3" * 60},
    ]
    path = write(tmp_path / "pairs.jsonl", *rows)
    (pair,), dropped = load_pairs(path, tokenizer, data(max_len=60, assistant_prefix="<think>"))
    assert dropped == 1
    assert tokenizer.decode(pair.prompt_ids) == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>"
    assert tokenizer.decode(pair.chosen_ids) == "2<|im_end|>"
    assert tokenizer.decode(pair.rejected_ids) == "33<|im_end|>"


def rollout(prompt: str, index: int, response: str, reward: float | None, finish: str = "stop") -> dict[str, Any]:
    """The columns of a row of rollouts that pairs are made of."""
    return {
        "id": f"{prompt}/{index}",
        "prompt": f"Q {prompt}",
        "response": response,
        "reward": reward,
        "finish_reason": finish,
        "num_tokens": len(response) + (finish == "stop"),
    }


def test_pairs_of_a_run(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Catches a group without a difference, an ungraded response, one cut off that gets an end, and groups mixed up;
    also a compressed file that is passed over."""
    write(
        tmp_path / "rollouts/step_000001.jsonl",
        rollout("a", 0, "1", 0.5),
        rollout("a", 1, "2", 1.0),
        rollout("a", 2, "3", None),
        rollout("a", 3, "4", 0.0, finish="length"),
        rollout("b/1", 0, "5", 1.0),
        rollout("b/1", 1, "6", 1.0),
    )
    rows = [rollout("b/1", 0, "7", 0.0), rollout("b/1", 1, "8", 1.0)]
    write_objects(tmp_path / "rollouts/step_000002.jsonl.gz", rows)
    pairs, dropped = load_pairs(tmp_path, tokenizer, data())
    texts = [tuple(map(tokenizer.decode, (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids))) for pair in pairs]
    assert texts == [("Q a", "2<|im_end|>", "4"), ("Q b/1", "8<|im_end|>", "7<|im_end|>")]
    assert dropped == 0


def test_pairs_of_two_equal_responses(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches steps without a gradient, of a loss that stays at ln 2, and nobody who says why."""
    equal = {"prompt": "1+1?", "chosen": "2", "rejected": "2<|im_end|>"}
    path = write(tmp_path / "pairs.jsonl", equal, {"prompt": "1+1?", "chosen": "2", "rejected": "3"}, equal)
    pairs, dropped = load_pairs(path, tokenizer, data())
    assert (len(pairs), dropped) == (1, 0)
    assert "left out since both responses are the same: 2" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="all 1 pairs are of two equal responses"):
        load_pairs(write(path, equal), tokenizer, data())


def test_responses_that_are_encoded_otherwise_than_sampled(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches DPO on tokens that the policy has not sampled, without a word: here one response had a token more."""
    rows = [rollout("a", 0, "12", 1.0), rollout("a", 1, "3", 0.0), rollout("b", 0, "4", 1.0), rollout("b", 1, "5", 0.0)]
    file = tmp_path / "rollouts/step_000001.jsonl"
    load_pairs(write(file, *rows).parents[1], tokenizer, data())
    assert capsys.readouterr().out == ""
    rows[1]["num_tokens"] += 1
    load_pairs(write(file, *rows).parents[1], tokenizer, data())
    assert "responses that are other tokens than were sampled: 1 of 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "1+1?", "chosen": "2"}, "pairs.jsonl:1: no column `rejected`"),
        ({"chosen": "2", "rejected": "3"}, "pairs.jsonl:1: no column `prompt`"),
        (
            {"messages": [{"role": "user"}], "chosen": "2", "rejected": "3"},
            "pairs.jsonl:1: `messages` must be a list of {role, content} strings",
        ),
        ({"prompt": "1+1?", "chosen": "2", "rejected": "3" * 99}, "all 1 pairs are longer than data.max_len 60"),
    ],
)
def test_bad_pairs_are_named(
    row: dict[str, Any], told: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Catches a traceback where a dataset has other columns, and a run without anything to train on."""
    with pytest.raises(ConfigError) as caught:
        load_pairs(write(tmp_path / "pairs.jsonl", row), tokenizer, data(max_len=60))
    assert told in str(caught.value)


def test_a_folder_without_rollouts(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Catches a model's folder that is given in place of a run's."""
    with pytest.raises(MissingError, match=r"no rollouts/step_\*\.jsonl"):
        load_pairs(tmp_path, tokenizer, data())


def test_rows_of_a_batch() -> None:
    """Catches chosen and rejected swapped, and all chosen ones first: the loss compares rows 2 n and 2 n + 1."""
    batch = to_batch([Pair([1], [2, 3], [4]), Pair([5, 6], [7], [8, 9])])
    assert batch.input_ids.tolist() == [[1, 2, 3, 0], [1, 4, 0, 0], [5, 6, 7, 0], [5, 6, 8, 9]]
    assert batch.response_mask.int().tolist() == [[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_fingerprints_tell_pairs_apart() -> None:
    """Catches a fingerprint of all tokens in one list, or without the order: one that other pairs have, too."""
    pairs = [
        Pair([1], [2, 3], [4]),
        Pair([1], [2], [3, 4]),
        Pair([1, 2], [3], [4]),
        Pair([1], [4], [2, 3]),
        Pair([12], [3], [4]),
    ]
    assert len({fingerprint(pair) for pair in pairs}) == len(pairs)
    assert fingerprint(pairs[0]) == fingerprint(Pair([1], [2, 3], [4]))
