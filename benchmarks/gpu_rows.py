"""The rows of `gpu_check`: each a function that returns what it measured, raises `NotRun`, or fails."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.machine import ROOT

VOCABULARY, HIDDEN, TOKENS = 151_936, 1_536, 4_096
"""Of the head of Qwen2.5-1.5B, and a micro-batch."""
DEMO = ROOT / "scripts/configs/grpo_countdown_tiny.yaml"


class NotRun(Exception):
    """A row that this machine cannot run, and what is missing."""


@dataclass(frozen=True)
class Row:
    """A check.

    Attributes:
        run: Returns what it measured.
        seconds: Deadline.
    """

    run: Callable[[], dict[str, Any]]
    seconds: int


def need_gpus(number: int = 1) -> None:
    """Raise unless there are so many GPUs."""
    if torch.version.cuda is None:
        raise NotRun("the CPU stack is installed: OPENR1_STACK=cuda bash scripts/setup.sh")
    if torch.cuda.device_count() < number:
        raise NotRun(f"needs {number} GPU(s), found {torch.cuda.device_count()}")


def machine() -> dict[str, Any]:
    """Versions, and what a run needs beside the GPU."""
    shared = shutil.disk_usage("/dev/shm")  # nosec B108 # nothing is written
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": torch.cuda.device_count() if torch.version.cuda else 0,
        "shared_memory_gib": round(shared.free / 2**30, 1),
        "compiler": shutil.which("g++") is not None,
        "python_headers": (Path(sysconfig.get_path("include")) / "Python.h").exists(),
    }
    if found["gpus"]:
        properties = torch.cuda.get_device_properties(0)
        driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(driver, capture_output=True, text=True, timeout=30, check=False).stdout
        found |= {
            "gpu": properties.name,
            "gpu_gib": round(properties.total_memory / 2**30, 1),
            "driver": answer.split("\n")[0],
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        }
    return found


def seconds_of(work: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds of GPU work, after one call that warms up."""
    work()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.monotonic()
        work()
        torch.cuda.synchronize()
        times.append(time.monotonic() - start)
    return sorted(times)[repeats // 2]


def compare_heads(device: str, vocabulary: int, hidden: int, tokens: int) -> dict[str, float]:
    """Largest relative errors of the bfloat16 head against float32 copies: logits, and gradients of a loss."""
    from openr1.algorithms.head import bfloat16_projection, float32_projection

    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(vocabulary, hidden, generator=generator) / hidden**0.5).bfloat16().to(device)
    states = torch.randn(tokens, hidden, generator=generator).bfloat16().to(device)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator).to(device)
    results: list[tuple[Tensor, Tensor, Tensor]] = []
    for make in (float32_projection, bfloat16_projection):
        own_weight, own_states = weight.clone().requires_grad_(), states.clone().requires_grad_()
        logits = make(own_weight, None)(own_states)
        functional.cross_entropy(logits, targets).backward()
        assert own_weight.grad is not None
        assert own_states.grad is not None
        results.append((logits.detach(), own_weight.grad.float(), own_states.grad.float()))
    names = ("logits", "weight_gradient", "hidden_gradient")
    errors = [float((mine - plain).norm() / plain.norm()) for plain, mine in zip(*results, strict=True)]
    return dict(zip(names, errors, strict=True))


def head() -> dict[str, Any]:
    """The LM head: numerics and speed of bfloat16 operands with float32 sums, against float32 copies."""
    need_gpus()
    from openr1.algorithms.head import bfloat16_projection, float32_projection

    errors = compare_heads("cuda", 32_000, HIDDEN, 512)
    assert errors["logits"] < 1e-5, errors
    assert max(errors["weight_gradient"], errors["hidden_gradient"]) < 2**-7, errors
    weight = torch.randn(VOCABULARY, HIDDEN, device="cuda").bfloat16()
    states = torch.randn(TOKENS, HIDDEN, device="cuda").bfloat16()
    with torch.no_grad():
        plain = seconds_of(lambda: float32_projection(weight, None)(states[:1024]))
        mine = seconds_of(lambda: bfloat16_projection(weight, None)(states[:1024]))
    return {**{key: f"{value:.1e}" for key, value in errors.items()}, "forward_speedup": round(plain / mine, 1)}


def attention() -> dict[str, Any]:
    """Packed attention by the variable-length kernel, against SDPA row by row, forward and backward."""
    need_gpus()
    from openr1.packing.attention import attend_within_rows

    lengths, heads, key_heads, size = [700, 64, 1, 1024, 300], 12, 2, 128
    generator, total = torch.Generator().manual_seed(0), sum(lengths)
    layer: Any = torch.nn.Module()
    layer.num_key_value_groups, layer.is_causal = heads // key_heads, True
    shapes = [(1, number, total, size) for number in (heads, key_heads, key_heads)]
    weights = torch.randn(1, total, heads, size, generator=generator).cuda()
    start = [torch.randn(shape, generator=generator).cuda() for shape in shapes]
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device="cuda")
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        # In float32 the kernel is not used.
        tensors = [tensor.bfloat16().to(dtype).requires_grad_() for tensor in start]
        query, key, value = tensors
        attended, _ = attend_within_rows(layer, query, key, value, None, row_lengths=lengths, row_ends=ends)
        (attended.float() * weights).sum().backward()
        gradients.append([tensor.grad.float() for tensor in tensors if tensor.grad is not None])
    errors = [float((mine - plain).norm() / plain.norm()) for plain, mine in zip(*gradients, strict=True)]
    assert max(errors) < 0.02, errors
    return dict(zip(("query", "key", "value"), (f"{error:.1e}" for error in errors), strict=True))


def train(folder: Path, *flags: str) -> dict[str, Any]:
    """Run the demo for some steps; returns metrics of all steps but the first, as medians."""
    command = [sys.executable, "-m", "cli", "train", "--config", str(DEMO), "--run.output_dir", str(folder)]
    command += ["--run.name", "check", "--data.held_out", "null", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    rows = [json.loads(line) for line in (folder / "check/metrics.jsonl").read_text().splitlines()]

    def median(key: str) -> float:
        values = sorted(row[key] for row in rows[1:])
        return float(values[len(values) // 2])

    started = next(line for line in done.stdout.splitlines() if line.startswith("starting "))
    return {
        "placement": started.removeprefix("starting ").partition("; logs")[0],
        "step_seconds": round(median("time/step_seconds"), 2),
        "sync_seconds": round(median("sync/seconds"), 3),
        "mismatch": f"{median('rollout/mismatch_abs_mean'):.1e}",
        "entropy": round(median("policy/entropy"), 3),
        "first_accuracy": round(rows[0]["reward/accuracy"], 3),
        "last_accuracy": round(rows[-1]["reward/accuracy"], 3),
    }


def demo() -> dict[str, Any]:
    """Twenty steps of the demo on all GPUs, with the default layout: engines, ranks, pushes, checks, a checkpoint."""
    need_gpus()
    with tempfile.TemporaryDirectory() as folder:
        found = train(Path(folder), "--num_steps", "20")
    assert found["last_accuracy"] > found["first_accuracy"], found
    return found


def half() -> dict[str, Any]:
    """Five steps with engines on one half of the GPUs, one step ahead."""
    need_gpus(2)
    flags = ["--placement.layout", "half", "--rollout.max_staleness", "1", "--num_steps", "5"]
    with tempfile.TemporaryDirectory() as folder:
        return train(Path(folder), *flags)


def separate() -> dict[str, Any]:
    """Five steps with GPUs of their own for every role; with four or more GPUs two ranks meet over NCCL."""
    need_gpus(3)
    with tempfile.TemporaryDirectory() as folder:
        return train(Path(folder), "--placement.layout", "separate", "--num_steps", "5")


def lora() -> dict[str, Any]:
    """Five steps of LoRA, in which the policy is its own reference, under ZeRO 3."""
    need_gpus()
    flags = ["--model.lora", "{rank: 8}", "--policy.zero_stage", "3", "--model.packing", "true", "--num_steps", "5"]
    with tempfile.TemporaryDirectory() as folder:
        return train(Path(folder), *flags)


def sleep() -> dict[str, Any]:
    """An engine asleep and awake again, and five steps in which engines and training take turns in the memory."""
    need_gpus()
    from benchmarks.gpu_sleep import sleep_and_wake

    flags = ["--placement.layout", "colocated", "--placement.sleep", "true", "--policy.zero_stage", "2"]
    with tempfile.TemporaryDirectory() as folder:
        trained = train(Path(folder), *flags, "--num_steps", "5")
    # Afterwards: this process keeps its part of the GPU.
    slept = sleep_and_wake(on_gpu=True, free_memory=lambda: torch.cuda.mem_get_info()[0])
    assert slept["same_responses"] == "16 of 16", slept
    assert slept["log_probs_apart"] < 0.01, slept
    assert slept["freed_gib"] > 0.4 * torch.cuda.get_device_properties(0).total_memory / 2**30, slept
    return slept | trained


def repeat() -> dict[str, Any]:
    """Two runs of three steps with one seed: whether accuracies and losses are the same."""
    need_gpus()
    rows = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            train(Path(folder), "--num_steps", "3")
            rows.append([json.loads(line) for line in (Path(folder) / "check/metrics.jsonl").read_text().splitlines()])
    keys = ("reward/accuracy", "policy/loss", "rollout/response_length_mean")
    return {key: [row[key] for row in rows[0]] == [row[key] for row in rows[1]] for key in keys}


ROWS = {
    "machine": Row(machine, 60),
    "head": Row(head, 60),
    "attention": Row(attention, 60),
    "demo": Row(demo, 240),
    "lora": Row(lora, 150),
    "sleep": Row(sleep, 240),
    "repeat": Row(repeat, 240),
    "half": Row(half, 150),
    "separate": Row(separate, 150),
}
"""In the order in which they run."""
