"""On-policy distillation, real: a policy without rewards comes closer to its teacher."""

import shutil
from pathlib import Path
from statistics import mean

import pytest
from safetensors.torch import load_file, save_file

from tests.integration.test_resume import BASE_MODEL
from tests.running import read_jsonl, run_grpo, write_config

NUM_STEPS = 24


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_policy_learns_from_its_teacher(countdown_files: Path, tmp_path: Path) -> None:
    """Catches a reference of the wrong weights, a sign that drives the policy away, and rewards that still train.

    The teacher is the same model, surer of itself: a final norm three times as large divides the temperature by 3.
    """
    teacher = shutil.copytree(BASE_MODEL, tmp_path / "teacher")
    weights = load_file(teacher / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 3
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    config = write_config(
        tmp_path / "config.yaml",
        BASE_MODEL,
        countdown_files,
        data={"held_out": None},
        rollout={"rollout_batch_size": 32, "n_samples_per_prompt": 8, "generate_max_len": 96, "threads": 2},
        policy={"train_batch_size": 256, "micro_batch_tokens": 8192, "threads": 2},
        reference={"path": str(teacher)},
        algorithm={"advantage_estimator": "none", "kl_in": "advantage", "kl_estimator": "k1", "init_kl_coef": 1.0},
        optimizer={"learning_rate": 3.0e-4},
        checkpoint={"save_steps": 0},
        num_steps=NUM_STEPS,
    )
    run_grpo(config, seconds=400)
    rows = read_jsonl(tmp_path / "runs/small/metrics.jsonl")
    distance, entropy = ([row[name] for row in rows] for name in ("policy/kl_before", "policy/entropy"))
    assert mean(distance[-4:]) < 0.75 * mean(distance[:4]), distance
    assert mean(entropy[-4:]) < 0.8 * entropy[0], entropy
