"""Experiments of many short runs: one after the other, each kept as JSON, going on where they were stopped."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from openr1.files import write_whole


@dataclass(frozen=True)
class Job:
    """One run of an experiment.

    Attributes:
        name: Of its folder and of its result file.
        seconds: What it takes, about, on 2 CPU cores.
        work: Makes the run in a folder that does not exist yet; returns its result.
    """

    name: str
    seconds: float
    work: Callable[[Path], dict[str, Any]]


def result_path(results: Path, name: str) -> Path:
    """Where the result of a run is kept."""
    return results / f"{name}.json"


def unfinished(jobs: Sequence[Job], results: Path) -> list[Job]:
    """The runs that have no result yet."""
    return [job for job in jobs if not result_path(results, job.name).exists()]


def run_jobs(jobs: Sequence[Job], folder: Path, results: Path) -> None:
    """Make the runs that have no result yet, in order, and say before each how long the rest takes.

    What a run that was stopped left behind is removed, and the run begins anew.

    Args:
        jobs: All runs of the experiment.
        folder: Of the runs' own folders.
        results: Of one JSON file a run, with the machine that it ran on.

    Raises:
        OpenR1Error: A run failed; those after it were not tried.
    """
    left = unfinished(jobs, results)
    for index, job in enumerate(left):
        minutes = sum(later.seconds for later in left[index:]) / 60
        print(f"{job.name}: {len(left) - index} runs left, about {minutes:.0f} minutes", flush=True)
        shutil.rmtree(folder / job.name, ignore_errors=True)
        start = time.monotonic()
        result = job.work(folder / job.name)
        taken = time.monotonic() - start
        text = json.dumps({"machine": machine(), "wall_seconds": round(taken, 1), **result})
        write_whole(result_path(results, job.name), text + "\n")
