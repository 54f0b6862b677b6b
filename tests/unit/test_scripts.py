"""The launch scripts, called from another folder than the repository."""

import subprocess
from pathlib import Path

import pytest

from tests.running import ROOT


@pytest.mark.parametrize("script", ["grpo", "sft_cot", "sft_longcot", "dpo"])
def test_a_config_is_looked_for_where_the_caller_is(script: str, tmp_path: Path) -> None:
    """Catches a config beside the caller that counts as missing, since scripts go to the repository first."""
    (tmp_path / "mine.yaml").write_text("run: {nmae: a}\n")
    command = ["bash", str(ROOT / f"scripts/{script}.sh"), "mine.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert f"{tmp_path}/mine.yaml" in done.stderr
    assert "unknown key run.nmae" in done.stderr


def test_a_model_is_looked_for_where_the_caller_is(tmp_path: Path) -> None:
    """Catches an evaluation of another model than the caller's, or of none."""
    (tmp_path / "mine").mkdir()
    command = ["bash", str(ROOT / "scripts/eval.sh"), "mine", "--benchmarks", "gsm8k", "--data", str(tmp_path)]
    (tmp_path / "GSM8k.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stderr
    assert f"{tmp_path}/mine: no config.json there" in done.stderr
