"""On-policy distillation, real: a policy without rewards comes closer to its teacher."""

import shutil
from pathlib import Path
from statistics import mean

import pytest
from safetensors.torch import load_file, save_file

from tests.integration.test_resume import BASE_MODEL
from tests.running import read_jsonl, run_grpo, write_config

NUM_STEPS = 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_policy_learns_from_its_teacher(countdown_files: Path, tmp_path: Path) -> None:
    """Catches a reference of the wrong weights, a sign that drives the policy away, and rewards that still train.

    The teacher is the same model, surer of itself: a final norm 1.5 times as large divides the temperature by 1.5.
    """
    teacher = shutil.copytree(BASE_MODEL, tmp_path / "teacher")
    weights = load_file(teacher / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    config = write_config(
        tmp_path / "config.yaml",
        BASE_MODEL,
        countdown_files,
        data={"held_out": None},
        rollout={"generate_max_len": 96},
        reference={"path": str(teacher)},
        algorithm={"advantage_estimator": "none", "kl_in": "advantage", "kl_estimator": "k1", "init_kl_coef": 1.0},
        optimizer={"learning_rate": 1.0e-3},
        checkpoint={"save_steps": 0},
        num_steps=NUM_STEPS,
    )
    run_grpo(config, seconds=400)
    distance = [row["policy/kl_before"] for row in read_jsonl(tmp_path / "runs/small/metrics.jsonl")]
    assert distance[0] > 1e-3, "the teacher does not differ; the test has no power"
    assert mean(distance[-3:]) < 0.7 * mean(distance[:2]), distance
