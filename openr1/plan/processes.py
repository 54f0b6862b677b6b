"""The processes of a run, with what each occupies."""

from dataclasses import dataclass

from openr1.actors.engines import GPU_MEMORY_ALONE, GPU_MEMORY_IN_TURN, GPU_MEMORY_SHARED
from openr1.config.train import TrainConfig
from openr1.placement.layouts import Placement
from openr1.plan import hardware
from openr1.plan.hardware import GIB, Gpu
from openr1.plan.memory import FLOAT32, Memory, frozen_memory, rank_memory
from openr1.plan.trace import MicroBatch
from openr1.plan.traces import Traces, largest_micro_batch, reference_settings
from openr1.rollout.engine import MAX_BATCHED_TOKENS, engine_dtype
from openr1.rollout.kv_cache import default_on_cpu
from openr1.workers.model import DTYPES

MOVED_PARTS = ("master weights", "optimizer moments")
"""What `placement.sleep` moves to host memory while engines generate."""


@dataclass(frozen=True)
class Process:
    """Processes of one role, all alike.

    Attributes:
        role: "policy rank", "critic rank", "reference" or "engine".
        gpus: GPUs of each of them; empty tuples on the CPU.
        memory: Peak of one of them, on each of its GPUs.
        sequences: Of an engine: how many sequences of the greatest length its KV cache holds; negative if even its
            other parts have no room.
        sequence_bytes: Of an engine: KV cache of one of them.
        resting_bytes: What it keeps on its GPU while others have their turn (`placement.sleep`); None if it keeps all.
    """

    role: str
    gpus: tuple[tuple[int, ...], ...]
    memory: Memory
    sequences: float | None = None
    sequence_bytes: int = 0
    resting_bytes: int | None = None


def training_processes(config: TrainConfig, placement: Placement, traces: Traces) -> list[Process]:
    """Policy, critic and reference."""
    policy, optimizer = config.policy, config.optimizer
    batch = largest_micro_batch(config, len(placement.policy))
    context = {"CUDA context": hardware.GPU_CONTEXT_BYTES} if placement.on_gpu else {}
    processes = []
    roles = [("policy rank", placement.policy, config.model, False)]
    if placement.critic:
        roles.append(("critic rank", placement.critic, config.critic_model, True))
    for role, gpus, settings, values in roles:
        backward = traces.cost(settings, batch, backward=True, values=values)
        model, ranks = traces.model(settings, values), len(gpus)
        memory = rank_memory(model, backward, policy.zero_stage, ranks, optimizer.offload, placement.on_gpu)
        device, host, resting = memory.device | context, memory.host, None
        if config.placement.sleep and placement.on_gpu:
            # Its forward passes while engines are awake (checks of the weights) are small.
            resting = memory.device["weights"] + hardware.GPU_CONTEXT_BYTES
            host = host | {part: device[part] for part in MOVED_PARTS if part in device}
        processes.append(Process(role, _single(gpus), Memory(device, host), resting_bytes=resting))
    if placement.reference:
        settings = reference_settings(config.reference_model)
        memory = frozen_memory(traces.model(settings), traces.cost(settings, batch, backward=False))
        processes.append(Process("reference", _single(placement.reference), Memory(memory.device | context)))
    return processes


def _single(gpus: tuple[int | None, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(() if gpu is None else (gpu,) for gpu in gpus)


def engine_processes(config: TrainConfig, placement: Placement, traces: Traces, gpu: Gpu | None) -> list[Process]:
    """The engines. On a GPU they take their share of it, whatever is left of that for the KV cache."""
    if not placement.engines:
        return []
    rollout = config.rollout
    model, size = traces.model(reference_settings(config.model)), rollout.tensor_parallel_size
    longest = config.data.prompt_max_len + rollout.generate_max_len
    parts = {"weights": model.weight_bytes // size}
    sequence_bytes = longest * model.kv_bytes // size
    if gpu is None or not placement.on_gpu:
        wider = DTYPES[engine_dtype(config.model.dtype, on_gpu=False)].itemsize // model.itemsize
        weights, sequence_bytes = wider * parts["weights"], wider * sequence_bytes
        cache = default_on_cpu(model.text, wider * model.itemsize, longest, rollout.max_num_seqs)
        if rollout.kv_cache_gib is not None:
            cache = int(rollout.kv_cache_gib * GIB)
        # The CPU keeps a second, packed copy of the weights.
        parts = {"weights": weights, "packed weights": weights, "KV cache": cache}
        return [Process("engine", placement.engines, Memory(parts), cache / sequence_bytes, sequence_bytes)]
    batch = MicroBatch(1, max(longest, MAX_BATCHED_TOKENS), 1)
    parts["activations"] = traces.cost(reference_settings(config.model), batch, backward=False).peak_bytes // size
    # Logits of the sampler, with their log-softmax and a sorted copy.
    parts["logits"] = 3 * FLOAT32 * rollout.max_num_seqs * model.vocab_size
    parts["CUDA context, graphs"] = hardware.GPU_CONTEXT_BYTES + hardware.GPU_GRAPHS_BYTES
    shared = any(placement.shares_gpus(index) for index in range(len(placement.engines)))
    sleep = config.placement.sleep
    default = (GPU_MEMORY_IN_TURN if sleep else GPU_MEMORY_SHARED) if shared else GPU_MEMORY_ALONE
    share = rollout.gpu_memory_utilization or default
    left = int(share * gpu.memory_gib * GIB) - sum(parts.values())
    cache = left if rollout.kv_cache_gib is None else int(rollout.kv_cache_gib * GIB)
    parts["KV cache"] = max(0, cache)
    resting = parts["CUDA context, graphs"] if sleep else None
    return [Process("engine", placement.engines, Memory(parts), cache / sequence_bytes, sequence_bytes, resting)]
