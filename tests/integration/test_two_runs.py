"""Two runs at once on one machine share nothing: no port, folder, shared memory, process, or number."""

import time
from pathlib import Path

import psutil
import pytest

from tests.integration.test_kill import start_train
from tests.integration.test_resume import BASE_MODEL, SETTINGS, check_same_steps
from tests.running import Job, marked, write_config

NUM_STEPS = 2
SECONDS = 400
"""Longest wait for either run; on a free machine both end within a minute."""


def watch(jobs: list[Job]) -> list[set[str]]:
    """Wait for the runs to end; returns for each the folders of Ray and of shared memory that its processes named."""
    seen: list[set[str]] = [set() for _ in jobs]
    deadline = time.monotonic() + SECONDS
    while any(job.process.poll() is None for job in jobs):
        assert time.monotonic() < deadline
        for job, folders in zip(jobs, seen, strict=True):
            for process in marked(job.mark):
                folders |= open_folders(process)
        time.sleep(0.2)
    return seen


def open_folders(process: psutil.Process) -> set[str]:
    """Names of openr1's temporary folders in a process's command line and among its files."""
    try:
        words = [*process.cmdline(), *(file.path for file in process.open_files())]
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return set()
    parts = (part for word in words for part in word.replace("=", "/").split("/"))
    return {part for part in parts if part.startswith("openr1-")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_runs_at_once(countdown_files: Path, tmp_path: Path) -> None:
    """Catches a fixed port, a shared Ray or folder, and a run that removes what the other uses or leaves its own."""
    config = write_config(tmp_path / "config.yaml", BASE_MODEL, countdown_files, **SETTINGS, num_steps=NUM_STEPS)
    jobs = [start_train(config, name) for name in ("one", "other")]
    folders = watch(jobs)
    for job in jobs:
        code, output = job.wait(SECONDS)
        assert code == 0, output
    check_same_steps(tmp_path / "runs/one", tmp_path / "runs/other", NUM_STEPS)
    assert folders[0].isdisjoint(folders[1])
    for job, names in zip(jobs, folders, strict=True):
        assert job.leftovers() == []
        own = f"openr1-{job.process.pid}-"
        ray = f"openr1-ray-{job.process.pid}-"
        assert {name for name in names if not name.startswith((own, ray))} == set()
        assert any(name.startswith(ray) for name in names)
        assert not list(Path("/dev/shm").glob(f"{own}*"))
        assert not list(Path("/tmp").glob(f"{ray}*"))
