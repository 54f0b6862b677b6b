"""Supervised runs as a user starts them, everything real."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.running import read_jsonl

ROOT = Path(__file__).resolve().parents[3]


def sft(*words: str, script: str = "") -> str:
    """Run the command, or a script, to its end; returns its output after checking that it succeeded."""
    command = ["bash", str(ROOT / "scripts" / script)] if script else [sys.executable, "-m", "cli", "sft"]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["cot", "longcot"])
def test_a_twin_learns(kind: str, tmp_path: Path) -> None:
    """Catches a script that takes another config, packing or scaled positions that stop learning, and a lost export."""
    output = sft("--run.output_dir", str(tmp_path), script=f"sft_{kind}.sh")
    run = tmp_path / f"sft_{kind}_tiny"
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["eval/loss"] < rows[0]["sft/loss"] - 1.0
    assert "before the first step: eval/loss" in output
    assert (run / "model/model.safetensors").is_file()


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    """Catches a resume that repeats or skips rows, or loses the optimizer's moments; also rows dropped and counted."""
    config = ROOT / "scripts/configs/sft_cot_tiny.yaml"
    words = ["--config", str(config), "--run.output_dir", str(tmp_path), "--model.dtype", "float32"]
    words += ["--optimizer.lr_scheduler", "constant", "--optimizer.lr_warmup_steps", "0", "--data.max_len", "160"]
    output = sft(*words, "--run.name", "whole")
    assert "longer ones dropped)" in output
    sft(*words, "--run.name", "parts", "--max_steps", "2", "--checkpoint.save_steps", "2")
    sft(*words, "--run.name", "parts", "--checkpoint.save_steps", "2", "--resume")
    whole, parts = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert len(whole) == len(parts) > 2
    for one, other in zip(whole, parts, strict=True):
        assert other["sft/loss"] == pytest.approx(one["sft/loss"], rel=1e-4)
        assert other["sft/tokens"] == one["sft/tokens"]
    models = [load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "parts")]
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-4, atol=1e-5)
