"""A plan in words."""

from collections.abc import Iterator

from openr1.config.train import TrainConfig
from openr1.plan.advice import Change, what_makes_it_fit, what_saves_time
from openr1.plan.hardware import GIB, GPU_USABLE_FRACTION
from openr1.plan.plan import MemoryPlan, Planner
from openr1.plan.processes import Process
from openr1.plan.times import StepSeconds, Workload


def describe_plan(planner: Planner, config: TrainConfig) -> tuple[list[str], bool]:
    """The lines of a report, and whether the run fits."""
    plan = planner.memory(config)
    problems = plan.problems()
    lines = [f"plan for {plan.machine.name}: {'does not fit' if problems else 'fits'}"]
    lines += [f"  {problem}" for problem in problems]
    lines += [f"layout {plan.placement.layout}: {plan.placement.describe()}", *_memory(plan)]
    advice = _what_fits(planner, config) if problems else _what_is_faster(planner, config)
    return [*lines, *_seconds(planner.workload(config), planner.seconds(config)), *advice], not problems


def _memory(plan: MemoryPlan) -> Iterator[str]:
    yield "memory at its peak, GiB:"
    for process in plan.processes:
        yield f"  {len(process.gpus)} {process.role}(s), each {_gib(process.memory.device_bytes)}: {_parts(process)}"
    gpu = plan.machine.gpu
    if gpu is not None and plan.placement.on_gpu:
        used = [plan.gpu_bytes(number) for number in range(plan.placement.num_gpus)]
        fullest = max(range(len(used)), key=used.__getitem__)
        margin = GPU_USABLE_FRACTION * gpu.memory_gib - used[fullest] / GIB
        where = f"{abs(margin):.1f} {'below' if margin >= 0 else 'above'} the limit of {GPU_USABLE_FRACTION:.0%}"
        yield f"  fullest GPU ({fullest}): {_gib(used[fullest])} of {gpu.memory_gib:g}, {where}"
    available = "" if plan.machine.host_bytes is None else f" of {_gib(plan.machine.host_bytes)}"
    yield (
        f"  host memory {_gib(plan.host_bytes)}{available}, of it /dev/shm {_gib(plan.shared_memory_bytes)}; "
        f"checkpoints on disk {_gib(plan.disk_bytes)}"
    )


def _parts(process: Process) -> str:
    parts = sorted(process.memory.device.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{name} {_gib(size)}" for name, size in parts)
    if process.memory.host:
        shown += f"; in host memory {_gib(process.memory.host_bytes)}"
    if process.sequences is not None:
        shown += f" ({max(0.0, process.sequences):.0f} sequences of the greatest length)"
    return shown


def _seconds(work: Workload, seconds: StepSeconds) -> Iterator[str]:
    phases = {name: value for name, value in seconds.phases().items() if value > 0}
    yield (
        f"a step takes about {seconds.step:.1f} s: "
        + ", ".join(f"{name} {value:.1f}" for name, value in phases.items())
        + f" ({max(phases, key=phases.__getitem__)} takes longest)"
    )
    yield (
        f"  for {work.responses} responses of {work.response_length:.0f} tokens on average, at most {work.longest}, to "
        f"prompts of {work.prompt_length:.0f}; constants: openr1/plan/hardware.py"
    )


def _what_fits(planner: Planner, config: TrainConfig) -> Iterator[str]:
    changes = what_makes_it_fit(planner, config)
    if changes is None:
        yield "no setting makes it fit: take more or larger GPUs, a smaller model, or model.lora"
    else:
        yield f"fits with {_changes(changes)}"


def _what_is_faster(planner: Planner, config: TrainConfig) -> Iterator[str]:
    faster = what_saves_time(planner, config)
    if faster is not None:
        yield f"next to change: {_changes(faster[0])}, which saves about {faster[1]:.1f} s of a step"


def _changes(changes: list[Change]) -> str:
    return " ".join(f"--{key} {str(value).lower()}" for key, value in changes)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f}" if num_bytes >= GIB / 10 else f"{num_bytes / GIB:.3f}"
