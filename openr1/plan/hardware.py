"""All constants of the plan: memory and speed of GPUs, speed of a CPU core, and what processes occupy besides tensors.

Memory is what PyTorch reports as total (nominal less what the driver keeps), rounded down. Peak rates are those of the
vendors' data sheets: dense bfloat16 with float32 sums, and memory bandwidth. What part of them a run reaches is
assumed, since openr1 has not run on a GPU. The CPU's numbers are of 2 cores of an AMD EPYC (Zen 5);
`benchmarks/plan.py` measures how well they predict.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A GPU model: memory in GiB, peak rate in TFLOP/s, bandwidth in TB/s."""

    memory_gib: float
    tflops: float
    bandwidth_tb: float


GPUS = {
    "a100-40": Gpu(39.4, 312, 1.555),  # NVIDIA A100 data sheet
    "a100-80": Gpu(79.1, 312, 2.039),
    "a800": Gpu(79.1, 312, 2.039),
    "b200": Gpu(178.3, 2250, 8.0),  # NVIDIA Blackwell data sheet
    "h100": Gpu(79.1, 989, 3.35),  # NVIDIA H100 data sheet (SXM)
    "h20": Gpu(95.5, 148, 4.0),
    "h200": Gpu(139.7, 989, 4.8),  # NVIDIA H200 data sheet
    "h800": Gpu(79.1, 989, 3.35),
    "l4": Gpu(22.0, 121, 0.3),  # NVIDIA L4 data sheet
    "l40s": Gpu(44.3, 362, 0.864),  # NVIDIA L40S data sheet
    "rtx3090": Gpu(23.6, 71, 0.936),  # NVIDIA Ampere GA102 whitepaper
    "rtx4090": Gpu(23.6, 165, 1.008),  # NVIDIA Ada whitepaper
}
"""By the name that `openr1 plan --gpu` takes."""


@dataclass(frozen=True)
class Speed:
    """What a process reaches: operations per second by kind, bytes per second, and seconds that do not shrink.

    Attributes:
        bfloat16_flops: Of products of bfloat16 matrices.
        float32_flops: Of products of float32 matrices; on GPUs the LM head's, whose operands are bfloat16.
        attention_flops: Of attention.
        bandwidth: Bytes that other operations read and write.
        operation_seconds: Least time of an operation.
        link_bandwidth: Bytes exchanged with other ranks.
        decode_seconds: Of a decoding step, besides its operations: scheduler, sampler, launches.
        sequence_seconds: Of each sequence in a decoding step.
        push_seconds: Of a weight push, whatever its size.
        push_bandwidth: Bytes of a weight push, through shared memory.
        host_bandwidth: Bytes that move between a GPU and host memory.
    """

    bfloat16_flops: float
    float32_flops: float
    attention_flops: float
    bandwidth: float
    operation_seconds: float
    link_bandwidth: float
    decode_seconds: float
    sequence_seconds: float
    push_seconds: float
    push_bandwidth: float
    host_bandwidth: float


def gpu_speed(gpu: Gpu) -> Speed:
    """Of a GPU. Assumed parts of the peak rates: published runs of models up to 4B reach 0.1 to 0.4 of the peak in all,
    with everything between the products, which counts by its bytes here."""
    flops = 0.45 * gpu.tflops * 1e12
    return Speed(
        bfloat16_flops=flops,
        float32_flops=flops,
        attention_flops=0.3 * gpu.tflops * 1e12,
        bandwidth=0.7 * gpu.bandwidth_tb * 1e12,
        operation_seconds=5e-6,
        link_bandwidth=100e9,
        # vLLM's scheduler and sampler in Python, in series with the GPU; 256 sequences.
        decode_seconds=6e-3,
        sequence_seconds=10e-6,
        push_seconds=0.1,
        # Through pageable host memory and shared memory, by one thread.
        push_bandwidth=1e9,
        # Assumed: pinned memory over PCIe 4.
        host_bandwidth=20e9,
    )


def cpu_speed(threads: float) -> Speed:
    """Of a process with some threads of an AMD EPYC (Zen 5).

    Rates of matrix products were measured for [8192, 192] x [192, 512], of attention for 60 rows of 96 tokens.
    Bandwidth and the seconds of decoding were chosen so that ten steps of the tiny configs come out.
    """
    return Speed(
        bfloat16_flops=490e9 * threads,
        float32_flops=105e9 * threads,
        attention_flops=35e9 * threads,
        bandwidth=12.5e9 * threads,
        operation_seconds=5e-6,
        link_bandwidth=1e9,
        decode_seconds=3.8e-3,
        sequence_seconds=50e-6,
        push_seconds=0.025,
        push_bandwidth=0.5e9,
        host_bandwidth=float("inf"),
    )


GPU_CONTEXT_BYTES = int(0.7 * GIB)
"""Assumed: CUDA context, kernels and workspaces of each process on a GPU."""
GPU_GRAPHS_BYTES = int(1.0 * GIB)
"""Assumed: CUDA graphs of an engine."""
GPU_USABLE_FRACTION = 0.95
"""Part of a GPU that a plan fills at most; the rest is for fragments of the allocator."""
WORKER_PROCESS_BYTES, WORKER_FIRST_STEP_BYTES = int(0.54 * GIB), 85 * 2**20
"""Measured: a training worker on the CPU before its model is loaded, and what its first step loads besides tensors."""
ENGINE_PROCESS_BYTES = int(0.8 * GIB)
"""Measured in the demo on the CPU: an engine (1,848 MiB with its part of shared pages) less its KV cache of 1 GiB."""
DRIVER_PROCESS_BYTES = int(1.0 * GIB)
"""Measured in the demo: the driver, Ray's processes and the reward server (968 MiB, their parts of shared pages)."""
