"""A run that is killed, in a step and while it saves, goes on as if nothing had been."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.integration.test_faults import check_same_weights, weights
from tests.integration.test_resume import BASE_MODEL, SETTINGS, check_same_steps, wait_for
from tests.running import MARK, ROOT, Job, write_config

NUM_STEPS = 8
SECONDS = 400
"""Longest wait for a file or for a run; on a free machine each comes within half a minute."""


def start_train(config: Path, name: str, *overrides: str) -> Job:
    """Start `python -m cli train`, with a reward server of its own, in a process group of its own."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "cli", "train", "--config", str(config), "--run.name", name]
    process = subprocess.Popen(
        [*command, *overrides],
        cwd=ROOT,
        env=os.environ | {MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return Job(process, mark)


def kill_at(job: Job, path: Path) -> None:
    """Kill the whole process group as soon as a file is there."""
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert job.process.poll() is None, job.wait(1)[1]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.001)
    os.killpg(job.process.pid, signal.SIGKILL)
    job.process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_run_equals_uninterrupted_run(countdown_files: Path, tmp_path: Path) -> None:
    """Catches a checkpoint that is half written and read, state that only an orderly end keeps, and a lock left over.

    Also a reward server that outlives the run that started it: it is in a process group of its own, and not killed.

    Each resumed run starts at once, among whatever processes and shared memory the killed one left.
    """
    config = write_config(
        tmp_path / "config.yaml",
        BASE_MODEL,
        countdown_files,
        **SETTINGS,
        algorithm={"reward_momentum": 0.5, "kl_target": 0.01, "kl_horizon": 100},
        checkpoint={"save_steps": 2, "keep": 5},
        tracking={"backends": ["wandb"], "mode": "offline", "rollout_table_steps": 0},
        num_steps=NUM_STEPS,
    )
    whole, parts = tmp_path / "runs/whole", tmp_path / "runs/parts"
    uninterrupted = start_train(config, "whole")
    code, output = uninterrupted.wait(SECONDS)
    assert code == 0, output

    job = start_train(config, "parts")
    wait_for(parts / "checkpoints/latest", lambda: job.process.poll() is None, SECONDS)
    kill_at(job, parts / "rollouts/step_000003.jsonl")
    jobs = [job]
    run_id = json.loads((parts / "tracking.json").read_text())["wandb"]["id"]
    # A save may be complete between the look and the kill: then the next one is waited for.
    for step in range(4, NUM_STEPS + 1, 2):
        jobs.append(start_train(config, "parts", "--resume"))
        kill_at(jobs[-1], parts / f"checkpoints/tmp_step_{step:06d}")
        if not (parts / f"checkpoints/step_{step:06d}").exists():
            break
    assert list(parts.glob("checkpoints/tmp_step_*")), "no kill came during a save"
    assert not (parts / "summary.json").exists()

    jobs.append(start_train(config, "parts", "--resume"))
    code, output = jobs[-1].wait(SECONDS)
    assert code == 0, output
    check_same_steps(whole, parts, NUM_STEPS)
    assert (parts / "pass_rates.jsonl").read_text() == (whole / "pass_rates.jsonl").read_text()
    one, other = (
        json.loads((folder / f"checkpoints/step_{NUM_STEPS:06d}/trainer.json").read_text()) for folder in (whole, parts)
    )
    assert one["running_reward"] is not None
    for key in ("running_reward", "kl_coef"):
        assert other.pop(key) == pytest.approx(one.pop(key), rel=1e-3)
    assert other == one
    assert json.loads((parts / "tracking.json").read_text()) == {"wandb": {"id": run_id, "step": NUM_STEPS}}
    assert {path.name.rpartition("-")[2] for path in parts.glob("wandb/offline-run-*")} == {run_id}
    assert not list(parts.glob("checkpoints/tmp_*"))
    for job in jobs:
        assert job.leftovers() == []
        assert not list(Path("/dev/shm").glob(f"openr1-{job.process.pid}-*"))


KILLS = 20
STEPS_OF_KILLS = 12


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(7200)
def test_killed_twenty_times(countdown_files: Path, tmp_path: Path) -> None:
    """Catches a moment at which a kill leaves what the next start cannot use: killed while it starts, makes a step,
    saves, or removes what the last one left, and started again at once, a run has the weights of an undisturbed one.
    """
    config = write_config(
        tmp_path / "config.yaml",
        BASE_MODEL,
        countdown_files,
        **SETTINGS,
        checkpoint={"keep": 2},
        num_steps=STEPS_OF_KILLS,
    )
    whole, parts = tmp_path / "runs/whole", tmp_path / "runs/parts"
    start = time.time()
    code, output = start_train(config, "whole").wait(SECONDS)
    assert code == 0, output
    first, second = (os.path.getmtime(whole / f"rollouts/step_{step:06d}.jsonl") for step in (1, 2))
    # Long enough for a step or two, so that the run is not over before its last kill.
    longest = (first - start) + 1.5 * (second - first)
    rng, jobs = random.Random(1), []
    for _ in range(KILLS):
        jobs.append(start_train(config, "parts", *(["--resume"] if (parts / "config.yaml").exists() else [])))
        time.sleep(rng.uniform(0.0, longest))
        assert jobs[-1].process.poll() is None, jobs[-1].wait(1)[1]
        os.killpg(jobs[-1].process.pid, signal.SIGKILL)
        jobs[-1].process.wait()
    jobs.append(start_train(config, "parts", "--resume"))
    code, output = jobs[-1].wait(SECONDS)
    assert code == 0, output
    check_same_steps(whole, parts, STEPS_OF_KILLS)
    check_same_weights(weights(parts, STEPS_OF_KILLS), weights(whole, STEPS_OF_KILLS))
    for job in jobs:
        assert job.leftovers() == []
        assert not list(Path("/dev/shm").glob(f"openr1-{job.process.pid}-*"))
