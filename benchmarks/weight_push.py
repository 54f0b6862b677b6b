"""Writing the file of a weight push: openr1's stream of tensors against `safetensors.torch.save_file`.

    python -m benchmarks.weight_push [--pairs 5] [--output benchmarks/results/weight_push.json]

Weights of a model with 135 million parameters in bfloat16, as a provider yields them: each a copy of its own, as under
LoRA or ZeRO 3. Each way is a process of its own; its peak is the resident set above the model's
weights, without the file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.machine import ROOT, spread, write_result
from openr1.runtime.ray_cluster import SHARED_MEMORY
from openr1.weight_sync.stream import write_tensors

LAYERS, HIDDEN, INTERMEDIATE, VOCAB = 30, 576, 1536, 49_152
WAYS = ("stream", "save_file")


def make_weights() -> dict[str, torch.Tensor]:
    """The shape of SmolLM2-135M."""
    shapes = {"embed": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"{layer}.{name}": (HIDDEN, HIDDEN) for name in ("q", "o")}
        shapes |= {f"{layer}.{name}": (HIDDEN // 3, HIDDEN) for name in ("k", "v")}
        shapes |= {f"{layer}.{name}": (INTERMEDIATE, HIDDEN) for name in ("gate", "up", "down")}
    return {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}


def measure(way: str) -> dict[str, float]:
    """Seconds, bytes and peak of one write, after one that is not counted."""
    weights = make_weights()
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        _write(way, Path(folder) / "first", weights)
        (Path(folder) / "first").unlink()
        Path("/proc/self/clear_refs").write_text("5")
        before, start = _status("VmRSS:"), time.monotonic()
        _write(way, Path(folder) / "second", weights)
        seconds = time.monotonic() - start
    num_bytes = sum(weight.nbytes for weight in weights.values())
    return {"seconds": seconds, "bytes": num_bytes, "peak": _status("VmHWM:") - before}


def _write(way: str, path: Path, weights: dict[str, torch.Tensor]) -> None:
    def provided() -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, weight.clone()) for name, weight in weights.items())

    if way == "save_file":
        save_file(dict(provided()), path)
    else:
        write_tensors(path, [(name, one.dtype, tuple(one.shape)) for name, one in weights.items()], provided())


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    """Measure in pairs and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weight_push", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--pairs", type=int, default=5, help="how often each way is measured, alternating")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/weight_push.json", metavar="FILE")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(args.pairs):
        for way in WAYS:
            words = [sys.executable, "-m", "benchmarks.weight_push", "--way", way]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    result: dict[str, Any] = {"bytes": found["stream"][0]["bytes"], "pairs": args.pairs}
    for way, runs in found.items():
        result[way] = {name: spread([run[name] for run in runs]) for name in ("seconds", "peak")}
        result[way]["gb_per_second"] = spread([run["bytes"] / run["seconds"] / 1e9 for run in runs])
    pairs = list(zip(found["save_file"], found["stream"], strict=True))
    result["speedup"] = spread([old["seconds"] / new["seconds"] for old, new in pairs])
    result["peak_ratio"] = spread([new["peak"] / old["peak"] for old, new in pairs])
    write_result(args.output, result)


if __name__ == "__main__":
    main()
