"""Shared by all benchmarks: a description of the machine, and result files."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def describe_machine() -> dict[str, Any]:
    """Return commit, date, CPU and versions, which are stored with every result."""
    commit = subprocess.run(  # nosec B607 # whichever git the user has
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
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


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result with a description of the machine, and print it."""
    text = json.dumps({"machine": describe_machine(), **result}, indent=2)
    path.write_text(text + "\n")
    print(text)
