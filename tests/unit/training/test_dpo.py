"""Preference optimization: its loss against hand arithmetic and TRL, its pairs, and a whole run."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from openr1.training.cluster import start_policy
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.losses import preference_loss
from openr1.config.dpo import DpoDataConfig
from openr1.config.sections import ModelConfig, OptimizerConfig, PolicyConfig
from openr1.data.prompts import load_tokenizer
from openr1.errors import ConfigError, MissingError
from openr1.training.dpo import Pair, load_pairs, sums_of_log_probs, to_batch, train_step
from openr1.workers.group import PolicyGroup
from openr1.workers.settings import LearnerSettings
from tests.fakes import FakePolicy
from tests.running import read_jsonl

ROOT = Path(__file__).resolve().parents[3]
BETA = 0.3
CUTS = [(1, 1000, False), (3, 12, False), (2, 8, True)]
"""Ranks, tokens of a micro-batch, packing."""
PAIRS = [
    Pair([7, 8], [20, 21, 22], [30, 31]),
    Pair([9], [40], [50, 51, 52, 53]),
    Pair([10, 11, 12], [60, 61], [70, 71]),
    Pair([13], [80, 81, 82, 83, 84, 85], [90]),
]


def test_loss_by_hand() -> None:
    """Catches chosen and rejected swapped, and a beta outside of the sigmoid."""
    # beta 1/2: margin (ln 9 - ln 1) / 2 = ln 3, sigmoid 3 / 4. Second pair: margin 0, loss ln 2.
    loss, margin = preference_loss(torch.tensor([math.log(9), 1.0]), torch.tensor([0.0, 1.0]), 0.5)
    torch.testing.assert_close(loss, torch.tensor([math.log(4 / 3), math.log(2)]))
    torch.testing.assert_close(margin, torch.tensor([math.log(3), 0.0]))


def loss_of_trl(model: Path, reference: torch.nn.Module, batch: TrainBatch, folder: Path) -> tuple[float, float]:
    """TRL's own loss on the pairs, and the norm of its gradient."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    arguments = DPOConfig(output_dir=str(folder), beta=BETA, report_to=[], use_cpu=True, bf16=False)
    unused = Dataset.from_list([{"prompt": "1+1?", "chosen": "2", "rejected": "3"}])
    trainer = DPOTrainer(
        model=lm, ref_model=reference, args=arguments, train_dataset=unused, processing_class=load_tokenizer(model)
    )
    # TRL wants all chosen rows first, then all rejected ones.
    order = [*range(0, len(batch), 2), *range(1, len(batch), 2)]
    inputs = {
        "input_ids": batch.input_ids[order],
        "attention_mask": batch.attention_mask[order].long(),
        "completion_mask": batch.response_mask[order].long(),
    }
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in lm.parameters()]).norm()
    return float(loss.detach()), float(norm)


@pytest.mark.parametrize(
    ("num_ranks", "micro_batch_tokens", "packing"), [(1, 1000, False), (3, 12, False), (2, 8, True)]
)
def test_loss_and_gradient_are_those_of_trl(
    ray_cluster: None,
    tiny_model: Callable[[bool], Path],
    tmp_path: Path,
    num_ranks: int,
    micro_batch_tokens: int,
    packing: bool,
) -> None:
    """Catches the mean of a response's log-probs in place of their sum, pairs torn apart, and a rank that counts twice.

    The reference has other weights than the policy, so that no log-ratio is 0. Of three ranks, one has fewer
    micro-batches than the others. The gradient shows in its norm, over all weights.
    """
    model = tiny_model(True)
    reference_lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in reference_lm.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    batch = to_batch(PAIRS)
    with torch.no_grad():
        logits = reference_lm(batch.input_ids, attention_mask=batch.attention_mask.long()).logits[:, :-1]
    log_probs = torch.distributions.Categorical(logits=logits).log_prob(batch.input_ids[:, 1:])
    reference = (log_probs * batch.response_mask[:, 1:]).sum(-1)

    settings = ModelConfig(path=model, dtype="float32", packing=packing)
    learner = LearnerSettings(settings, OptimizerConfig(learning_rate=1e-3, max_norm=0.0), 1, 1.0, 10)
    policy_config = PolicyConfig(num_ranks=num_ranks, zero_stage=1)
    ranks = start_policy(learner, policy_config, False, tmp_path / "logs")
    group = PolicyGroup(ranks, micro_batch_tokens, 120.0, 64, packing=packing)
    metrics = train_step(group, PAIRS, reference.view(-1, 2), BETA)
    for rank in ranks:
        ray.kill(rank)

    expected, norm = loss_of_trl(model, reference_lm, batch, tmp_path / "trl")
    assert metrics["dpo/loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["dpo/margin"] == pytest.approx(metrics["dpo/chosen_reward"] - metrics["dpo/rejected_reward"])
    assert metrics["policy/grad_norm"] == pytest.approx(norm, rel=1e-3)


class TokensAsLosses(FakePolicy):
    """A policy that finds a token the less likely the higher its number."""

    def log_probs(self, batch: TrainBatch) -> Tensor:
        """Minus the tokens' numbers."""
        return -batch.input_ids.float()


def test_sums_of_log_probs_by_hand() -> None:
    """Catches prompts that count, pairs out of order, and a last batch that is lost."""
    # 20 + 21 + 22 = 63 and 30 + 31 = 61; 40 and 206; 121 and 141; 495 and 90.
    sums = sums_of_log_probs(TokensAsLosses(), PAIRS, 3)
    assert sums.tolist() == [[-63, -61], [-40, -206], [-121, -141], [-495, -90]]


# Pairs


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[[bool], Path]) -> PreTrainedTokenizerBase:
    """The tiny model's."""
    return load_tokenizer(tiny_model(True))


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data(**values: Any) -> DpoDataConfig:
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
    return {
        "id": f"{prompt}/{index}",
        "prompt": f"Q {prompt}",
        "response": response,
        "reward": reward,
        "finish_reason": finish,
    }


def test_pairs_of_a_run(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Catches a group without a difference, an ungraded response, one cut off that gets an end, and groups mixed up."""
    write(
        tmp_path / "rollouts/step_000001.jsonl",
        rollout("a", 0, "1", 0.5),
        rollout("a", 1, "2", 1.0),
        rollout("a", 2, "3", None),
        rollout("a", 3, "4", 0.0, finish="length"),
        rollout("b/1", 0, "5", 1.0),
        rollout("b/1", 1, "6", 1.0),
    )
    write(tmp_path / "rollouts/step_000002.jsonl", rollout("b/1", 0, "7", 0.0), rollout("b/1", 1, "8", 1.0))
    pairs, dropped = load_pairs(tmp_path, tokenizer, data())
    texts = [tuple(map(tokenizer.decode, (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids))) for pair in pairs]
    assert texts == [("Q a", "2<|im_end|>", "4"), ("Q b/1", "8<|im_end|>", "7<|im_end|>")]
    assert dropped == 0


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "1+1?", "chosen": "2"}, "pairs.jsonl:1: `rejected` must be a string"),
        ({"chosen": "2", "rejected": "3"}, "pairs.jsonl:1: exactly one of `prompt` and `messages`"),
        ({"messages": [{"role": "user"}], "chosen": "2", "rejected": "3"}, "pairs.jsonl:1: `prompt` must be a string"),
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


# A whole run


def dpo(*words: str, code: int = 0) -> str:
    config = ["--config", str(ROOT / "scripts/configs/dpo_game24_tiny.yaml"), "--model.dtype", "float32"]
    command = [sys.executable, "-m", "cli", "dpo", *config, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_run_learns_and_resumes(tmp_path: Path) -> None:
    """Catches a reference that moves with the policy, or is computed again by a resumed run, from other weights."""
    where = ["--run.output_dir", str(tmp_path)]
    dpo(*where, "--run.name", "whole")
    dpo(*where, "--run.name", "parts", "--max_steps", "3", "--checkpoint.save_steps", "3")
    dpo(*where, "--run.name", "parts", "--max_steps", "0", "--checkpoint.save_steps", "3", "--resume")
    whole, parts = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [row["step"] for row in whole] == list(range(1, 9))
    # The policy is still the reference: every margin is 0.
    assert whole[0]["dpo/loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert whole[-1]["dpo/accuracy"] == 1.0
    assert whole[-1]["dpo/margin"] > 0.5
    for one, other in zip(whole, parts, strict=True):
        assert other["dpo/loss"] == pytest.approx(one["dpo/loss"], rel=1e-3, abs=1e-4)
    assert (tmp_path / "parts/model/model.safetensors").is_file()
    assert "all 8 updates are done" in dpo(*where, "--run.name", "whole", "--resume", code=2)
    # Stopped between the last step and the export: resuming makes up for the export alone.
    shutil.rmtree(tmp_path / "whole/model")
    dpo(*where, "--run.name", "whole", "--resume")
    assert (tmp_path / "whole/model/model.safetensors").is_file()
    assert read_jsonl(tmp_path / "whole/metrics.jsonl") == whole


@pytest.mark.slow
def test_references_of_other_pairs_are_refused(tmp_path: Path) -> None:
    """Catches a dataset that changed under a resumed run: each pair would be held to another pair's reference."""
    pairs = (ROOT / "data/samples/game24/pairs.jsonl").read_text().splitlines(keepends=True)
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(pairs[:32]))
    where = ["--run.output_dir", str(tmp_path), "--data.train", str(path)]
    dpo(*where, "--max_steps", "1")
    path.write_text("".join(pairs[32:]))
    assert "belongs to other pairs" in dpo(*where, "--max_steps", "2", "--resume", code=2)
