"""Six steps are three steps, a stop, and three more; and an interrupted run goes on from its checkpoint."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import ROOT, read_jsonl, run_grpo, start_grpo, write_config

BASE_MODEL = ROOT / "data/models/tiny_base"

# The shipped model solves about a quarter of its problems: its groups carry a signal.
SETTINGS = {
    "rollout": {"generate_max_len": 96},
    "data": {"held_out": None},
    "optimizer": {"learning_rate": 3.0e-4},
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_resumed_run_equals_uninterrupted_run(countdown_files: Path, tmp_path: Path) -> None:
    """Catches a resume that loses the optimizer's moments, the place in the data, the seeds or the weight version.

    float32 and seeded sampling: prompts, order and versions are equal exactly, responses and metrics up to rounding.
    """
    config = write_config(tmp_path / "config.yaml", BASE_MODEL, countdown_files, **SETTINGS)
    run_grpo(config, "--run.name", "whole", "--num_steps", "6")
    run_grpo(config, "--run.name", "parts", "--num_steps", "3")
    run_grpo(config, "--run.name", "parts", "--num_steps", "6", "--resume")
    check_same_steps(tmp_path / "runs/whole", tmp_path / "runs/parts", 6)


def check_same_steps(whole: Path, parts: Path, num_steps: int) -> None:
    """Two run folders have the same rollouts, and the same metrics but for rounding."""
    for step in range(1, num_steps + 1):
        name = f"rollouts/step_{step:06d}.jsonl"
        for one, other in zip(read_jsonl(whole / name), read_jsonl(parts / name), strict=True):
            for key in ("id", "prompt", "label", "weight_version", "response", "reward"):
                assert one[key] == other[key], (step, key)
    rows = list(zip(read_jsonl(whole / "metrics.jsonl"), read_jsonl(parts / "metrics.jsonl"), strict=True))
    assert len(rows) == num_steps
    for one, other in rows:
        assert one["policy/grad_norm"] > 0
        for key, value in one.items():
            if not key.startswith(("time/", "throughput/")) and key != "sync/seconds":
                assert other[key] == pytest.approx(value, rel=1e-3, abs=1e-6), (one["step"], key)


def wait_for(path: Path, job_alive: Callable[[], bool], seconds: float) -> None:
    """Wait until a file exists while the job lives."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert job_alive(), "the job ended early"
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "code", "ahead"), [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 1)])
def test_signal_leaves_a_checkpoint_and_nothing_else(
    countdown_files: Path, tmp_path: Path, number: signal.Signals, code: int, ahead: int
) -> None:
    """Catches orphans of Ray, vLLM or the reward server, a lost run, and a checkpoint that cannot be resumed from."""
    config = write_config(
        tmp_path / "config.yaml",
        BASE_MODEL,
        countdown_files,
        **SETTINGS | {"rollout": {"generate_max_len": 96, "max_staleness": ahead}},
        checkpoint={"save_steps": 0},
        num_steps=1000,
    )
    folder = tmp_path / "runs/small"
    job = start_grpo(config)
    wait_for(folder / "rollouts/step_000002.jsonl", lambda: job.process.poll() is None, 120)
    job.signal(number)
    exit_code, output = job.wait(60)
    assert exit_code == code, output
    assert job.leftovers() == []
    assert not list(Path("/dev/shm").glob(f"openr1-{job.process.pid}-*"))
    newest = folder / "checkpoints" / (folder / "checkpoints/latest").read_text().strip()
    step = json.loads((newest / "trainer.json").read_text())["step"]
    assert step >= 2
    assert read_jsonl(folder / "metrics.jsonl")[-1]["step"] == step
    shutil.rmtree(folder / "rollouts")
    resumed = start_grpo(config, "--resume")
    wait_for(folder / f"rollouts/step_{step + 1:06d}.jsonl", lambda: resumed.process.poll() is None, 120)
    resumed.signal(signal.SIGTERM)
    assert resumed.wait(60)[0] == 143


@pytest.mark.timeout(120)
def test_signal_while_starting_leaves_nothing(countdown_files: Path, tmp_path: Path) -> None:
    """Catches actors or a reward server that outlive a run which was stopped before its first step."""
    config = write_config(tmp_path / "config.yaml", BASE_MODEL, countdown_files, **SETTINGS)
    job = start_grpo(config)
    wait_for(tmp_path / "runs/small/logs/engine_0.log", lambda: job.process.poll() is None, 150)
    job.signal(signal.SIGTERM)
    exit_code, output = job.wait(60)
    assert exit_code == 143, output
    assert job.leftovers() == []
    assert not (tmp_path / "runs/small/checkpoints").exists()
