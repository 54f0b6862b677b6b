"""What benchmarks share: where a figure comes from, the reward server that they ask, and how results are kept."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in cpu_lines if line.startswith("model name")), "")
    return {
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


@contextmanager
def reward_server(core: int | None = None) -> Iterator[str]:
    """Address of a reward server in a process of its own, kept to one core if that is given."""
    mine = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    command = [sys.executable, "-m", "cli", "serve", "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(0, mine)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().removeprefix("reward server:").strip()
    finally:
        server.terminate()
        server.wait()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Keep a result, with where it comes from, and print it."""
    text = json.dumps({"machine": machine(), **result}, indent=2)
    path.write_text(text + "\n")
    print(text)
