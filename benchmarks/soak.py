"""Whether long work leaks: open files, threads, memory and shared memory of all processes, sampled from outside.

    python -m benchmarks.soak [--steps 200] [--minutes 30] [--output benchmarks/results/soak.json]

A run of so many steps with an engine, a reference and a policy rank, and a reward server under eight clients for so
many minutes. A slope is that of least squares over all samples but the first fifth, with the interval of twice its
standard error; samples follow each other closely, so the true interval is wider.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import yaml

from benchmarks.machine import ROOT, write_result
from benchmarks.process_memory import processes
from benchmarks.reward_server import Load, numeric
from openr1.rewards.process import running_reward_server
from openr1.runtime.ray_cluster import SHARED_MEMORY

WARM_UP_FRACTION = 0.2
SECONDS_PER_SAMPLE = 2.0
MIB = 2**20


def sample(root: psutil.Process) -> dict[str, float]:
    """What a tree of processes holds now; processes that end meanwhile are left out."""
    held = {"processes": 0.0, "files": 0.0, "threads": 0.0, "unique_mib": 0.0}
    for process in processes(root):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            files, threads = process.num_fds(), process.num_threads()
            # Without what processes share, which would count once for each.
            unique = process.memory_full_info().uss / MIB
            held["processes"] += 1
            held["files"] += files
            held["threads"] += threads
            held["unique_mib"] += unique
    held["shared_memory_mib"] = sum(size(path) for path in SHARED_MEMORY.rglob("*")) / MIB
    return held


def size(path: Path) -> int:
    """Bytes of a file; 0 if it is gone."""
    with suppress(OSError):
        return path.stat().st_size if path.is_file() else 0
    return 0


def slopes(positions: list[float], samples: list[dict[str, float]], unit: str) -> dict[str, Any]:
    """For each quantity: its mean, and its slope per `unit` with the ends of its interval."""
    first = int(len(samples) * WARM_UP_FRACTION)
    x = np.array(positions[first:])
    result: dict[str, Any] = {"samples": len(x), "per": unit}
    for name in samples[0]:
        y = np.array([one[name] for one in samples[first:]])
        coefficients, covariance = np.polyfit(x, y, 1, cov=True)
        slope, error = float(coefficients[0]), float(np.sqrt(covariance[0, 0]))
        result[name] = {"mean": float(y.mean()), "slope": slope, "low": slope - 2 * error, "high": slope + 2 * error}
    return result


def write_config(folder: Path, steps: int) -> Path:
    """A run of the shipped tiny model."""
    config = {
        "run": {"name": "soak", "output_dir": str(folder)},
        "model": {"path": str(ROOT / "data/models/tiny_base"), "dtype": "float32"},
        "data": {"train": str(ROOT / "data/countdown_tiny/train.jsonl"), "prompt_max_len": 96},
        "rollout": {
            "rollout_batch_size": 8,
            "n_samples_per_prompt": 4,
            "generate_max_len": 64,
            "kv_cache_gib": 0.1,
        },
        "algorithm": {"init_kl_coef": 0.001},
        "optimizer": {"learning_rate": 1.0e-5},
        "policy": {"train_batch_size": 32, "micro_batch_tokens": 2048},
        "checkpoint": {"save_steps": 20, "keep": 2},
        "num_steps": steps,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def watch_run(steps: int) -> dict[str, Any]:
    """Train, and sample once a step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "cli", "train", "--config", str(write_config(folder, steps))]
        metrics = folder / "soak/metrics.jsonl"
        positions: list[float] = []
        samples: list[dict[str, float]] = []
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            root = psutil.Process(process.pid)
            while process.poll() is None:
                done = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
                # The last steps are left out, since processes end after them.
                if 0 < done < steps and (not positions or done > positions[-1]):
                    positions.append(float(done))
                    samples.append(sample(root))
                time.sleep(0.1)
        if process.returncode:
            raise SystemExit((folder / "log").read_text())
        return {"steps": steps, **slopes(positions, samples, "step")}


async def load(url: str, minutes: float, take: Callable[[float], None]) -> dict[str, Any]:
    """Eight clients; `take` is called with the minutes that have passed."""
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = asyncio.create_task(Load(session, url).run(numeric, minutes * 60))
        start = time.monotonic()
        while not clients.done():
            await asyncio.to_thread(take, (time.monotonic() - start) / 60)
            await asyncio.sleep(SECONDS_PER_SAMPLE)
        answered: dict[str, Any] = await clients
        return answered


def watch_server(minutes: float) -> dict[str, Any]:
    """Keep a reward server busy, and sample it."""
    before = set(psutil.Process().children())
    with running_reward_server() as url:
        (server,) = set(psutil.Process().children()) - before
        positions: list[float] = []
        samples: list[dict[str, float]] = []

        def take(passed: float) -> None:
            positions.append(passed)
            samples.append(sample(server))

        answered = asyncio.run(load(url, minutes, take))
        return {
            "minutes": minutes,
            "items_per_second": answered["items_per_second"],
            **slopes(positions, samples, "minute"),
        }


def main() -> int:
    """Measure and store the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/soak.json")
    args = parser.parse_args()
    write_result(args.output, {"run": watch_run(args.steps), "reward_server": watch_server(args.minutes)})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
