"""What vLLM makes of an engine's settings on a GPU, without one: its CUDA platform with faked properties.

Run as a program, since the platform is global: `python -m tests.fake_cuda MODEL CONFIG...` prints one JSON object per
config file.
"""

import json
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

# A compiled part of vLLM's CUDA build, which the CPU build lacks.
sys.modules["vllm._C_stable_libtorch"] = types.ModuleType("vllm._C_stable_libtorch")

import vllm
import vllm.config.model
import vllm.config.vllm
import vllm.platforms
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms.cuda import NonNvmlCudaPlatform
from vllm.platforms.interface import DeviceCapability

from openr1.actors.engines import train_engine_settings
from openr1.actors.rl import train_demand
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.placement.group import Gpu, Places
from openr1.placement.layouts import Machine, place
from openr1.rollout.engine import EngineSettings, build_llm


class FakeH800(NonNvmlCudaPlatform):
    """Four GPUs of 80 GB."""

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
        return DeviceCapability(9, 0)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return "NVIDIA H800"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return 80 * 2**30

    @classmethod
    def is_fully_connected(cls, ids: list[int]) -> bool:
        return True

    @classmethod
    def device_count(cls) -> int:
        return 4

    def is_cumem_allocator_available(self) -> bool:
        # Part of the CUDA build, too.
        return True


def engine_arguments(settings: EngineSettings) -> dict[str, Any]:
    """What `build_llm` gives to vLLM."""
    captured: dict[str, Any] = {}

    class RecordingLLM:
        def __init__(self, model: str, **arguments: Any) -> None:
            captured.update(arguments, model=model)

        def update_weight_version(self, version: str) -> None:
            pass

    with mock.patch.object(vllm, "LLM", RecordingLLM):
        build_llm(settings)
    return captured


def describe(settings: EngineSettings) -> dict[str, Any]:
    """The parts of vLLM's resolved configuration that openr1 relies on."""
    config = EngineArgs(**engine_arguments(settings)).create_engine_config()
    scheduler, cache, parallel = config.scheduler_config, config.cache_config, config.parallel_config
    return {
        "executor": parallel.distributed_executor_backend,
        "tensor_parallel_size": parallel.tensor_parallel_size,
        "async_scheduling": scheduler.async_scheduling,
        "batches": config.max_concurrent_batches,
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "prefix_caching": cache.enable_prefix_caching,
        "cudagraph_mode": config.compilation_config.cudagraph_mode.name,
        "head_dtype": str(config.model_config.head_dtype),
        "logprobs_mode": config.model_config.logprobs_mode,
        "kv_cache_bytes": cache.kv_cache_memory_bytes,
        "gpu_memory_utilization": cache.gpu_memory_utilization,
        "max_num_seqs": scheduler.max_num_seqs,
        "sleep": config.model_config.enable_sleep_mode,
    }


def main(model: str, paths: list[str]) -> None:
    """Print what becomes of each config's first engine on four GPUs, with another model of the same family."""
    # The model's configuration has taken the platform of this machine when it was imported.
    vllm.platforms._current_platform = vllm.config.model.current_platform = FakeH800()
    # The CPU build has no Triton; with it vLLM chooses what it chooses on a GPU.
    vllm.config.vllm.HAS_TRITON = True
    for path in paths:
        config = load_config(TrainConfig, Path(path), ["--model.path", model])
        placement = place(config.placement.layout, train_demand(config), Machine(4))
        gpus = tuple(Gpu(number, "node", str(number)) for number in range(4))
        settings = train_engine_settings(config, Places(placement, group=mock.Mock(), gpus=gpus))[0]
        print(json.dumps({"config": Path(path).stem, "layout": placement.layout, **describe(settings)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
