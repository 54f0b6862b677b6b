"""Supervised fine-tuning: the loss that is reported, the order in which rows train, and runs as a user starts them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from openr1.algorithms.batch import TrainBatch
from openr1.algorithms.objectives.sft import SftObjective
from openr1.config.load import validate
from openr1.config.sft import SftConfig
from openr1.data.examples import Example
from openr1.errors import ConfigError
from openr1.offline import sft
from openr1.offline.fixed_dataset import count_steps
from openr1.offline.sft import held_out_loss, run_sft, sft_job, train_step
from tests.fakes import FakePolicy
from tests.running import ROOT, read_jsonl

# Example n has the prompt (1,) and n response tokens, each 10 + n.
EXAMPLES = [Example([1], [10 + number] * number) for number in range(1, 6)]


def make_config(size: int = 2, **values: Any) -> SftConfig:
    """Batches of `size` rows, in the order of the file unless told otherwise."""
    sections = {
        "run": {"name": "test", "seed": values.pop("seed", 0)},
        "model": {"path": "model"},
        "data": {"train": "train.jsonl", "shuffle": values.pop("shuffle", False)},
        "policy": {"train_batch_size": size},
    }
    return validate(SftConfig, {**sections, **values}, "test")


def trained(config: SftConfig) -> list[list[int]]:
    """The numbers of the examples in each update of a whole run."""
    policy, num_steps = FakePolicy(), count_steps(config, len(EXAMPLES))
    job = sft_job(config, num_steps, EXAMPLES, [], policy)
    job.start(None)
    for _ in range(num_steps):
        job.step()
    return [[int(row[1]) - 10 for row in batch.input_ids] for batch in policy.updates]


class TokensAsLosses(FakePolicy):
    """A policy that finds a token the less likely the higher its number."""

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Minus the tokens' numbers."""
        return -batch.input_ids * batch.response_mask


def test_rows_train_in_their_order() -> None:
    """Catches a step that gets other rows than its turn's, the same rows in every epoch, and a seed that is ignored."""
    assert trained(make_config(2, max_epochs=2)) == [[1, 2], [3, 4], [5]] * 2
    shuffled = trained(make_config(5, shuffle=True, max_epochs=4))
    assert all(sorted(epoch) == [1, 2, 3, 4, 5] for epoch in shuffled)
    assert len({tuple(epoch) for epoch in shuffled}) > 1
    assert trained(make_config(5, shuffle=True, max_epochs=4)) == shuffled
    assert trained(make_config(5, shuffle=True, max_epochs=4, seed=1)) != shuffled


def test_metrics_of_an_update_by_hand() -> None:
    """Catches a loss per batch or per row, and a count of tokens that leaves out prompts or counts padding."""
    policy = FakePolicy()
    rows = [train_step(policy, EXAMPLES[start : start + 2], 0.25) for start in (0, 2, 4)]
    # 1 + 2, 3 + 4 and 5 response tokens, and a prompt token a row. The fake finds 6 nats in every batch.
    assert [row["sft/loss"] for row in rows] == pytest.approx([6 / 3, 6 / 7, 6 / 5])
    assert [row["sft/tokens"] for row in rows] == [5, 9, 6]
    # The fake's n-th update has gradient norm n and learning rate n / 10.
    assert [(row["policy/grad_norm"], row["policy/learning_rate"]) for row in rows] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert policy.objectives == [SftObjective(0.25)] * 3
    batch = policy.updates[0]
    assert batch.response_mask.int().tolist() == [[0, 1, 0], [0, 1, 1]]
    # The loss is the mean over all response tokens of the batch.
    assert batch.loss_weights is not None
    assert batch.loss_weights[batch.response_mask].tolist() == pytest.approx([1 / 3] * 3)


def test_held_out_loss_by_hand() -> None:
    """Catches a mean of batch means: the second batch has fewer rows and other lengths."""
    # A token's log-prob is minus its number: of example n, n tokens of 10 + n. 11 + 24 + 39 + 56 + 75 = 205, of 15.
    assert held_out_loss(TokensAsLosses(), EXAMPLES, 2) == pytest.approx(205 / 15)


def test_held_out_rows_are_evaluated() -> None:
    """Catches a held-out loss of the training rows, and an evaluation where there are no held-out rows."""
    config = make_config(2, max_steps=1)
    job = sft_job(config, 1, EXAMPLES, EXAMPLES[1:3], TokensAsLosses())
    job.start(None)
    job.step()
    # 24 + 39 = 63, of 5 tokens.
    assert job.evaluate() == {"eval/loss": pytest.approx(63 / 5)}
    alone = sft_job(config, 1, EXAMPLES, [], TokensAsLosses())
    alone.start(None)
    alone.step()
    assert alone.evaluate() == {}


def write(path: Path, *responses: str) -> Path:
    """A file with a row for each response."""
    rows = [
        {"id": str(number), "prompt": "1+1?", "label": "2", "task": "countdown", "response": response}
        for number, response in enumerate(responses)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_dropped_rows_are_told_by_file(
    tmp_path: Path, tiny_model: Callable[[bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches one number for both files, which hides that the held-out set has shrunk."""

    def start(config: SftConfig, num_steps: int, resume: bool, data: str, make_job: object) -> None:
        raise ConfigError(data)

    monkeypatch.setattr(sft, "run_fixed_dataset", start)
    train = write(tmp_path / "train.jsonl", "2", "3", "2" * 200)
    held_out = write(tmp_path / "held_out.jsonl", "2", *["2" * 200] * 2)
    files = {"train": str(train), "held_out": str(held_out), "max_len": 100, "overlong": "drop"}
    run = {"name": "test", "output_dir": str(tmp_path)}
    config = make_config(run=run, model={"path": str(tiny_model(True))}, data=files)
    with pytest.raises(ConfigError) as caught:
        run_sft(config, resume=False)
    assert str(caught.value) == "2 examples (1 longer ones dropped), 1 held out (2 longer ones dropped)"


# Whole runs, everything real


def run_command(*words: str, script: str = "") -> str:
    """Run the command, or a script, to its end; returns its output after checking that it succeeded."""
    command = ["bash", str(ROOT / "scripts" / script)] if script else [sys.executable, "-m", "cli", "sft"]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", [pytest.param("cot", marks=pytest.mark.slow), "longcot"])
def test_a_twin_learns(kind: str, tmp_path: Path) -> None:
    """Catches a script that takes another config, packing or scaled positions that stop learning, and a lost export."""
    output = run_command("--run.output_dir", str(tmp_path), script=f"sft_{kind}.sh")
    run = tmp_path / f"sft_{kind}_tiny"
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["eval/loss"] < rows[0]["sft/loss"] - 1.0
    assert "before the first step: eval/loss" in output
    assert (run / "model/model.safetensors").is_file()


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    """Catches a resume that repeats or skips rows, or loses the optimizer's moments; also rows dropped and counted."""
    config = ROOT / "scripts/configs/sft_cot_tiny.yaml"
    words = ["--config", str(config), "--run.output_dir", str(tmp_path), "--model.dtype", "float32"]
    words += ["--optimizer.lr_scheduler", "constant", "--optimizer.lr_warmup_steps", "0", "--data.max_len", "160"]
    output = run_command(*words, "--run.name", "whole")
    assert "longer ones dropped)" in output
    run_command(*words, "--run.name", "parts", "--max_steps", "2", "--checkpoint.save_steps", "2")
    run_command(*words, "--run.name", "parts", "--checkpoint.save_steps", "2", "--resume")
    whole, parts = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert len(whole) == len(parts) > 2
    for one, other in zip(whole, parts, strict=True):
        assert other["sft/loss"] == pytest.approx(one["sft/loss"], rel=1e-4)
        assert other["sft/tokens"] == one["sft/tokens"]
    models = [load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "parts")]
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-4, atol=1e-5)
