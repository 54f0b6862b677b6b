"""DeepSpeed on its CUDA accelerator, as far as it goes without a GPU."""

import json
import os
import subprocess
import sys
from typing import Any

from openr1.actors.workers import worker_variables
from tests.running import ROOT


def ask(what: str, accelerator: str) -> Any:
    """The answer of tests/deepspeed_on_gpu.py."""
    rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": accelerator}
    words = [sys.executable, "-m", "tests.deepspeed_on_gpu", what]
    environment = os.environ | worker_variables(on_gpu=False) | rank
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_settings_are_understood_on_a_gpu() -> None:
    """Catches a setting that DeepSpeed renames or ignores: a sum of gradients in bfloat16, a bucket of gigabytes."""
    found = ask("config", "cuda")
    assert found.pop("accelerator") == "nccl"
    for stage in (1, 2, 3):
        assert found[str(stage)] == {
            "stage": stage,
            "bfloat16": True,
            "gradient type": "fp32",
            "exchange type": "torch.float32",
            "clipping": 1.0,
            "offload": "cpu",
            "bucket": 10**8,
        }


def test_no_stage_compiles_an_extension() -> None:
    """Catches an optimizer or a ZeRO stage that compiles for the GPU at its start, which needs nvcc."""
    assert ask("build", "cpu") == ["0 none", "1 none", "2 none", "3 none", "2 cpu", "3 cpu"]
