"""A base model without a chat template: trained with a built-in one, and evaluated as it was trained."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, read_jsonl, run_grpo, write_config


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_base_model_with_a_template(countdown_files: Path, tmp_path: Path) -> None:
    """Catches an engine, an export or an evaluation that does not know the template that the run has chosen."""
    model = tmp_path / "base"
    shutil.copytree(ROOT / "data/models/tiny_base", model)
    (model / "chat_template.jinja").unlink()
    data = {"chat_template": "r1_zero", "held_out": None, "prompt_max_len": 400}
    run_grpo(write_config(tmp_path / "config.yaml", model, countdown_files, data=data), "--num_steps", "1", seconds=400)
    rollouts = read_jsonl(tmp_path / "runs/small/rollouts/step_000001.jsonl")
    prompts = {row["id"].rpartition("/")[0]: row["prompt"] for row in rollouts}
    assert all(prompt.endswith("\nAssistant:") and "<answer>" in prompt for prompt in prompts.values())
    rows = [row for row in read_jsonl(countdown_files / "train.jsonl") if row["id"] in prompts]
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    exported = tmp_path / "runs/small/checkpoints/step_000001/model"
    words = ["--model", str(exported), "--benchmarks", str(tmp_path / "same.jsonl"), "--output", str(tmp_path / "eval")]
    command = [sys.executable, "-m", "cli", "eval", *words, "--max-tokens", "8", "--kv-cache-gib", "0.1"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    samples = read_jsonl(tmp_path / "eval/samples/same.jsonl")
    assert {sample["id"]: sample["prompt"] for sample in samples} == prompts
