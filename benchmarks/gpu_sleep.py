"""An engine that sleeps, wakes up at a push and samples again, in this process: for the row `sleep` of `gpu_check`."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmarks.machine import ROOT
from openr1.actors.engines import ENGINE_CPU_VARIABLES, ENGINE_VARIABLES
from openr1.rollout.engine import EngineSettings, build_llm, to_vllm
from openr1.rollout.pausing import drain, fall_asleep, wake_cache, wake_weights
from openr1.types import SamplingParams
from openr1.weight_sync.backends import VLLM_NAMES

MODEL = ROOT / "data/models/tiny_base"
PROMPTS, TOKENS = 16, 32


def engine_settings(folder: Path, on_gpu: bool) -> EngineSettings:
    """An engine on half of the GPU, or on the CPU, where sleep changes no memory."""
    return EngineSettings(
        model_path=MODEL,
        dtype="bfloat16" if on_gpu else "float32",
        max_model_len=128,
        max_num_seqs=PROMPTS,
        kv_cache_bytes=None if on_gpu else 2**27,
        gpu_memory_utilization=0.5,
        tensor_parallel_size=1,
        visible_devices="",
        interface="lo",
        config_overrides={},
        on_gpu=on_gpu,
        weight_transfer_backend=VLLM_NAMES["shm"],
        log_path=folder / "engine.log",
        sleep=on_gpu,
    )


def sample(llm: Any) -> list[tuple[list[int], list[float]]]:
    """Tokens and log-probs of a greedy response to each prompt."""
    greedy = to_vllm(SamplingParams(1, TOKENS, 0.0, 1.0, 0, "sleep"), 0, TOKENS, [])
    prompts = [{"prompt_token_ids": [1, 5 + number, 7, 9]} for number in range(PROMPTS)]
    completions = [output.outputs[0] for output in llm.generate(prompts, greedy, use_tqdm=False)]
    return [(list(one.token_ids), list(one.logprobs.logprobs)) for one in completions]


def sleep_and_wake(on_gpu: bool, free_memory: Callable[[], int]) -> dict[str, Any]:
    """Sample, sleep, push the same weights again, and sample: the largest difference of log-probs, and memory.

    `free_memory` counts bytes of the GPU. The weights are pushed as a run does it, from a file.
    """
    os.environ |= ENGINE_VARIABLES | ({} if on_gpu else ENGINE_CPU_VARIABLES)
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = engine_settings(folder, on_gpu)
        weights = AutoModelForCausalLM.from_pretrained(MODEL, dtype=settings.dtype).state_dict()
        tied = {"lm_head.weight"} if weights["lm_head.weight"] is weights["model.embed_tokens.weight"] else set()
        save_file({name: tensor.clone() for name, tensor in weights.items() if name not in tied}, folder / "push")
        llm: Any = build_llm(settings)
        llm.init_weight_transfer_engine({"init_info": {}})
        before, awake = sample(llm), free_memory()
        drain(llm)
        fall_asleep(llm)
        asleep = free_memory()
        wake_weights(llm)
        llm.start_weight_update()
        llm.update_weights({"update_info": {"path": str(folder / "push")}})
        llm.finish_weight_update("1")
        wake_cache(llm)
        after, again = sample(llm), free_memory()
    same = [one[0] == other[0] for one, other in zip(before, after, strict=True)]
    pairs = zip(before, after, strict=True)
    apart = [abs(x - y) for one, other in pairs for x, y in zip(one[1], other[1], strict=True)]
    return {
        "same_responses": f"{sum(same)} of {len(same)}",
        "log_probs_apart": max(apart),
        "freed_gib": round((asleep - awake) / 2**30, 2),
        "taken_back_gib": round((asleep - again) / 2**30, 2),
    }
