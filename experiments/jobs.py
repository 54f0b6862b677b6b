"""Run the many short runs of an experiment one after the other; each result is a JSON file, so that it can resume."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from openr1.runtime.files import write_whole


@dataclass(frozen=True)
class Job:
    """One run of an experiment.

    Attributes:
        name: Name of the run folder and of the result file.
        seconds: Estimated duration on 2 CPU cores.
        work: Performs the run in a folder that does not exist yet, and returns the result.
    """

    name: str
    seconds: float
    work: Callable[[Path], dict[str, Any]]


def result_path(results: Path, name: str) -> Path:
    """Return the path of the result of a run."""
    return results / f"{name}.json"


def pending_jobs(jobs: Sequence[Job], results: Path) -> list[Job]:
    """Return the jobs that have no result yet."""
    return [job for job in jobs if not result_path(results, job.name).exists()]


def run_jobs(jobs: Sequence[Job], folder: Path, results: Path) -> None:
    """Perform the runs that have no result yet, in order, and print the estimated remaining time before each.

    The folder of an interrupted run is deleted, and the run starts from the beginning.

    Args:
        jobs: All runs of the experiment.
        folder: Parent of the run folders.
        results: Folder of the results: one JSON file per run, which also describes the machine.

    Raises:
        OpenR1Error: A run failed; later runs are not attempted.
    """
    pending = pending_jobs(jobs, results)
    for index, job in enumerate(pending):
        minutes = sum(later.seconds for later in pending[index:]) / 60
        print(f"{job.name}: {len(pending) - index} runs left, about {minutes:.0f} minutes", flush=True)
        shutil.rmtree(folder / job.name, ignore_errors=True)
        start = time.monotonic()
        result = job.work(folder / job.name)
        wall_seconds = time.monotonic() - start
        text = json.dumps({"machine": describe_machine(), "wall_seconds": round(wall_seconds, 1), **result})
        write_whole(result_path(results, job.name), text + "\n")
