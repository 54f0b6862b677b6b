"""Preference optimization: its loss against hand arithmetic and TRL, its reference, and a whole run."""

import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from openr1.actors.workers import group_settings, learner_settings, start_workers
from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.dpo import DpoObjective
from openr1.config.dpo import DpoConfig
from openr1.config.load import load_config, validate
from openr1.config.sections import ModelConfig, OptimizerConfig, PolicyConfig
from openr1.data.pairs import Pair, to_batch
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError
from openr1.offline.dpo import dpo_job, reference_log_probs, sequence_log_probs, train_step
from openr1.placement.group import Place
from openr1.workers.group import PolicyGroup
from tests.fakes import FakePolicy
from tests.running import ROOT, read_jsonl

BETA = 0.3
PAIRS = [
    Pair([7, 8], [20, 21, 22], [30, 31]),
    Pair([9], [40], [50, 51, 52, 53]),
    Pair([10, 11, 12], [60, 61], [70, 71]),
    Pair([13], [80, 81, 82, 83, 84, 85], [90]),
]


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

    policy = PolicyConfig(num_ranks=num_ranks, zero_stage=1, micro_batch_tokens=micro_batch_tokens)
    optimizer = OptimizerConfig(learning_rate=1e-3, max_norm=0.0)
    settings = ModelConfig(path=model, dtype="float32", packing=packing)
    learner = learner_settings(settings, optimizer, policy, total_updates=10)
    workers = start_workers(learner, policy, [Place()] * num_ranks, tmp_path / "logs")
    group = PolicyGroup(workers, group_settings(learner, policy))
    metrics = train_step(group, PAIRS, reference.view(-1, 2), DpoObjective(BETA, len(PAIRS)))
    for worker in workers:
        ray.kill(worker)

    expected, norm = loss_of_trl(model, reference_lm, batch, tmp_path / "trl")
    assert metrics["dpo/loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["dpo/margin"] == pytest.approx(metrics["dpo/chosen_reward"] - metrics["dpo/rejected_reward"])
    assert metrics["policy/grad_norm"] == pytest.approx(norm, rel=1e-3)


@dataclass
class TokensAsLosses(FakePolicy):
    """A policy that finds a token the less likely the higher its number, and `scale` times as much."""

    scale: float = 1.0

    def log_probs(self, batch: TrainBatch) -> Tensor:
        """Minus the tokens' numbers."""
        return -batch.input_ids.float() * self.scale


# 20 + 21 + 22 = 63 and 30 + 31 = 61; 40 and 206; 121 and 141; 495 and 90.
SUMS = [[-63.0, -61.0], [-40.0, -206.0], [-121.0, -141.0], [-495.0, -90.0]]


def make_config(folder: Path) -> DpoConfig:
    """A run in `folder`, with batches of three pairs."""
    values = {
        "run": {"name": "test", "output_dir": str(folder)},
        "model": {"path": "model"},
        "data": {"train": "pairs.jsonl"},
        "policy": {"train_batch_size": 3},
        "max_epochs": 3,
        "beta": BETA,
    }
    return validate(DpoConfig, values, "test")


def test_sums_of_log_probs_by_hand() -> None:
    """Catches prompts that count, pairs out of order, and a last batch that is lost."""
    assert sequence_log_probs(TokensAsLosses(), PAIRS, 3).tolist() == SUMS


def test_metrics_of_an_update_by_hand() -> None:
    """Catches sums in place of means over pairs, metrics that are swapped, and references at other rows."""
    policy = FakePolicy()
    metrics = train_step(policy, PAIRS[:2], torch.tensor([[1.0, 2.0], [3.0, 4.0]]), DpoObjective(BETA, 2))
    # The fake's sums are 1 to 5, of two pairs. Tokens: (2 + 3) + (2 + 2) + (1 + 1) + (1 + 4) = 16.
    assert metrics == {
        "dpo/loss": 0.5,
        "dpo/accuracy": 1.0,
        "dpo/margin": 1.5,
        "dpo/chosen_reward": 2.0,
        "dpo/rejected_reward": 2.5,
        "dpo/tokens": 16,
        "policy/grad_norm": 1,
        "policy/learning_rate": 0.1,
    }
    assert policy.objectives == [DpoObjective(BETA, 2)]
    (batch,) = policy.updates
    assert batch.ref_sequence_log_probs is not None
    assert batch.ref_sequence_log_probs.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_every_pair_trains_against_its_own_reference(tmp_path: Path) -> None:
    """Catches pairs that are shuffled without their references."""
    policy = TokensAsLosses()
    job = dpo_job(make_config(tmp_path), 6, PAIRS, policy)
    job.start(None)
    for _ in range(6):
        job.step()
    assert [len(batch) for batch in policy.updates] == [6, 2] * 3
    assert {tuple(batch.input_ids[:, 0].tolist()) for batch in policy.updates[::2]} != {(7, 7, 9, 9, 10, 10)}
    for batch in policy.updates:
        assert batch.ref_sequence_log_probs is not None
        sums = (batch.input_ids * batch.response_mask).sum(-1)
        assert batch.ref_sequence_log_probs.tolist() == (-sums).tolist()


@pytest.mark.parametrize("config", ["dpo_game24", "dpo_game24_tiny"])
@pytest.mark.parametrize(
    ("flags", "beta"), [([], 0.1), (["--loss", "simpo"], 2.0), (["--loss", "simpo", "--beta", "3"], 3.0)]
)
def test_beta_is_that_of_the_loss(config: str, flags: list[str], beta: float) -> None:
    """Catches SimPO with the beta of DPO, twenty times too small, and one that was given and is not used."""
    assert load_config(DpoConfig, Path(config), flags).beta == beta


@pytest.mark.parametrize(("loss", "beta"), [("simpo", 2.0), ("orpo", 0.1)])
def test_losses_without_a_reference(tmp_path: Path, loss: str, beta: float) -> None:
    """Catches a pass over all pairs whose result nothing reads, and a beta of DPO for SimPO."""
    values = make_config(tmp_path).model_dump(exclude={"beta"}) | {"loss": loss}
    config = validate(DpoConfig, values, "test")
    policy = TokensAsLosses()
    job = dpo_job(config, 6, PAIRS, policy)
    job.start(None)
    job.step()
    assert policy.objectives == [DpoObjective(beta, 3, loss, 1.0)]
    assert [batch.ref_sequence_log_probs for batch in policy.updates] == [None]
    assert not (config.run.folder / "reference_log_probs.jsonl").exists()


def test_reference_is_kept_for_a_resumed_run(tmp_path: Path) -> None:
    """Catches a reference that is computed again, by other weights, and a dataset that changed under a resumed run."""
    config = make_config(tmp_path)
    assert reference_log_probs(TokensAsLosses(), PAIRS, config).tolist() == SUMS
    moved = TokensAsLosses(scale=2.0)
    assert reference_log_probs(moved, PAIRS, config).tolist() == SUMS
    others: list[Sequence[Pair]] = [PAIRS[:3], PAIRS[::-1], [*PAIRS[:3], Pair([13], [80], [90])]]
    for pairs in others:
        with pytest.raises(ConfigError, match=r"belongs to other pairs; pairs\.jsonl has changed"):
            reference_log_probs(moved, pairs, config)


# A whole run


def dpo(*words: str, code: int = 0) -> str:
    """Run the command to its end; returns its errors after checking its exit code."""
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
    assert "all 8 steps are done" in dpo(*where, "--run.name", "whole", "--resume", code=2)
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
