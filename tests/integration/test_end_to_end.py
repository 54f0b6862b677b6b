"""Two steps of everything: the script, a reward server over HTTP, Ray, DeepSpeed, a reference, vLLM, weight pushes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from openr1.data.chat import PromptFormat
from openr1.data.prompts import PromptStream, load_prompts
from openr1.data.tokenizer import load_tokenizer
from tests.listening import watching
from tests.running import ROOT, read_jsonl, run_grpo, start_grpo, write_config

METRICS = [
    "step",
    "reward/mean",
    "reward/accuracy",
    "reward/failed_fraction",
    "rollout/response_length_mean",
    "rollout/truncated_fraction",
    "rollout/mismatch_kl",
    "rollout/mismatch_abs_mean",
    "policy/loss",
    "policy/kl",
    "policy/entropy",
    "policy/grad_norm",
    "policy/clip_fraction",
    "sync/seconds",
    "sync/version",
    "time/step_seconds",
    "time/generate_seconds",
    "time/reward_seconds",
    "time/reference_seconds",
    "time/update_seconds",
    "time/sync_seconds",
    "throughput/tokens_per_second",
]

SUMMARY = [
    "accuracy_before",
    "accuracy_after",
    "ci95_before",
    "ci95_after",
    "eval_size",
    "response_length_before",
    "response_length_after",
    "steps",
    "wall_seconds",
    "tokens_per_second",
    "mismatch_kl_max",
    "mismatch_abs_mean_max",
    "weight_version",
]


@pytest.mark.timeout(300)
def test_two_steps_of_the_whole_system(
    tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches anything that breaks between the parts: a stage that does not start, weights that are not pushed, files
    that are not written, processes that stay, ports that other machines can reach, secrets that are written down.

    Two policy ranks and two optimizer steps a step (train_batch_size is half of 8 x 4), so that the ranks meet and the
    old log-probs are made. The model is random and its rewards may be all alike; weight decay makes sure that the
    weights move, and so that a push which does not arrive shows as a mismatch at step 2.
    """
    config = write_config(
        tmp_path / "config.yaml",
        tiny_model(True),
        countdown_files,
        optimizer={"learning_rate": 1.0e-2, "weight_decay": 1.0},
        policy={"num_ranks": 2, "zero_stage": 2, "train_batch_size": 16},
    )
    secret = "made-up-0123456789abcdef"
    for name in ("OPENR1_REWARD_TOKEN", "WANDB_API_KEY", "SWANLAB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, secret)
    job = start_grpo(config)
    with watching(job.mark) as listeners:
        code, output = job.wait(170)
    assert code == 0, output
    assert job.leftovers() == []
    # Linux keeps 15 characters of a name.
    names = " ".join(listeners.seen.values())
    assert all(one in names for one in ("gcs_server", "raylet", "ray::TrainWorke", "ray::EngineActo", "python")), names
    assert listeners.exposed == []
    folder = tmp_path / "runs" / "small"

    assert secret not in output
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert [path for path in written if secret.encode() in path.read_bytes()] == []

    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert [row["sync/version"] for row in rows] == [1, 2]
    for row in rows:
        assert set(METRICS) <= row.keys()
        assert all(math.isfinite(value) for value in row.values())
        assert row["reward/failed_fraction"] == 0.0
        assert row["rollout/mismatch_abs_mean"] < 1e-5
        assert row["rollout/mismatch_kl"] < 1e-6
    # The reference is the untrained model: at step 2 the policy has left it.
    assert rows[1]["policy/kl"] > 1e-6

    for step in (1, 2):
        rollouts = read_jsonl(folder / "rollouts" / f"step_{step:06d}.jsonl")
        assert len(rollouts) == 8 * 4
        assert {row["weight_version"] for row in rollouts} == {step - 1}
        assert all(row["verdict"] in ("wrong", "no_answer", "truncated", "correct") for row in rollouts)

    summary = json.loads((folder / "summary.json").read_text())
    assert set(SUMMARY) <= summary.keys()
    assert summary["steps"] == 2
    assert summary["weight_version"] == 2
    assert summary["eval_size"] == 16
    assert yaml.safe_load((folder / "config.yaml").read_text())["policy"]["num_ranks"] == 2
    assert (folder / "eval/step_000000.json").exists()
    assert (folder / "eval/step_000002.json").exists()

    checkpoints = folder / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_000001", "step_000002"]
    assert (checkpoints / "latest").read_text() == "step_000002\n"
    trained = AutoModelForCausalLM.from_pretrained(checkpoints / "step_000002" / "model").state_dict()
    base = AutoModelForCausalLM.from_pretrained(tiny_model(True)).state_dict()
    assert trained.keys() == base.keys()
    assert any(not torch.equal(trained[name], base[name]) for name in base)

    # What the user sees is the run's own words; the libraries' go to logs/.
    assert "held-out accuracy (16 problems)" in output
    assert {path.name for path in (folder / "logs").iterdir()} >= {
        "engine_0.log", "policy_0.log", "policy_1.log", "reference_0.log"
    }  # fmt: skip
    # The run started its reward server itself.
    assert (folder / "logs/reward_server.log").exists()
    for chatter in ("WARNING", "DeepSpeed", "vllm", "Ray"):
        assert chatter not in output, output


@pytest.mark.timeout(300)
def test_steps_sampled_ahead(countdown_files: Path, tmp_path: Path) -> None:
    """Catches a pipelined run that mixes up prompts, trains on older weights than it may, or evaluates another step.

    Held-out prompts are sampled after every step, while the engine samples the next one.
    """
    model = ROOT / "data/models/tiny_base"
    config = write_config(
        tmp_path / "config.yaml",
        model,
        countdown_files,
        rollout={"max_staleness": 1, "generate_max_len": 96},
        evaluation={"n_samples_per_prompt": 2, "eval_steps": 1},
        num_steps=4,
    )
    run_grpo(config)
    folder = tmp_path / "runs/small"
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["sync/version"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        evaluated = json.loads((folder / f"eval/step_{row['step']:06d}.json").read_text())
        assert row["eval/accuracy"] == evaluated["sampled"]["accuracy"]
    # The first step is by the newest weights: engine and trainer agree.
    assert rows[0]["rollout/staleness_max"] == 0
    assert rows[0]["rollout/mismatch_abs_mean"] < 1e-5
    assert all(0 <= row["rollout/staleness_mean"] <= row["rollout/staleness_max"] <= 1 for row in rows)
    train = load_prompts(countdown_files / "train.jsonl", load_tokenizer(model), 64, PromptFormat())
    stream = PromptStream(train, 3)
    for step in range(1, 5):
        rollouts = read_jsonl(folder / f"rollouts/step_{step:06d}.jsonl")
        asked = [f"{prompt.id}/{index}" for prompt in stream.take(8) for index in range(4)]
        assert [row["id"] for row in rollouts] == asked
        for row in rollouts:
            assert max(0, step - 2) <= row["weight_version"] <= row["newest_weight_version"] <= step - 1
    assert len(list((folder / "eval").iterdir())) == 5
