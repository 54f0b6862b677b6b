"""The machine that a plan is for: this one, or one that is described."""

import os
from dataclasses import dataclass

import torch

from openr1.errors import ConfigError
from openr1.placement.group import has_gpu_stack
from openr1.plan.hardware import GIB, GPUS, Gpu


@dataclass(frozen=True)
class PlannedMachine:
    """GPUs of one model, or none; `host_bytes` of memory, None if unknown."""

    num_gpus: int
    gpu: Gpu | None
    name: str
    host_bytes: int | None


def this_machine() -> PlannedMachine:
    """What a run would find here. A GPU model that is not in `hardware.GPUS` is planned with the speed of an L4."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    count = torch.cuda.device_count() if has_gpu_stack() else 0
    if count == 0:
        return PlannedMachine(0, None, f"{os.cpu_count()} CPU cores", host)
    properties = torch.cuda.get_device_properties(0)
    memory_gib = properties.total_memory / GIB
    like = GPUS[nearest_model(properties.name, memory_gib)]
    gpu = Gpu(memory_gib, like.tflops, like.bandwidth_tb)
    return PlannedMachine(count, gpu, f"{count} x {properties.name}", host)


def nearest_model(device_name: str, memory_gib: float) -> str:
    """The key in `hardware.GPUS` of a device by its name, of several versions the one nearest in memory; else "l4"."""
    found = device_name.lower().replace(" ", "")
    models = [key for key in GPUS if key.split("-")[0] in found]
    # The longest: `h20` is also in `H200`.
    longest = max((len(key.split("-")[0]) for key in models), default=0)
    models = [key for key in models if len(key.split("-")[0]) == longest]
    return min(models, key=lambda key: abs(GPUS[key].memory_gib - memory_gib), default="l4")


def described_machine(num_gpus: int, name: str) -> PlannedMachine:
    """A machine with `num_gpus` GPUs of a model in `hardware.GPUS`.

    Raises:
        ConfigError: The model is not known.
    """
    if num_gpus == 0:
        return PlannedMachine(0, None, "no GPU", None)
    if name not in GPUS:
        raise ConfigError(f"--gpu {name}: not a known GPU; the known ones are {', '.join(sorted(GPUS))}")
    return PlannedMachine(num_gpus, GPUS[name], f"{num_gpus} x {name}, {GPUS[name].memory_gib:g} GiB each", None)
