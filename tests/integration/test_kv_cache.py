"""The default size of the KV cache on the CPU, counted by vLLM itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from openr1.actors.engines import start_engines, train_engine_settings
from openr1.actors.rl import train_demand
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.placement.group import Places
from openr1.rollout.engine import EngineActor
from tests.running import write_config


class CountingEngine(EngineActor):
    """Tells what vLLM made of the cache."""

    async def num_cache_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        cache = self._llm.llm_engine.vllm_config.cache_config
        return int(cache.num_gpu_blocks * cache.block_size)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_cluster")
def test_all_sequences_fit(tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path) -> None:
    """Catches a default that is too small by vLLM's own count: sequences would be computed again and again.

    17 sequences of up to 512 tokens (prompts of 96) in the cache of the default, which has room for one more.
    """
    rollout = {"kv_cache_gib": None, "max_num_seqs": 17, "generate_max_len": 416}
    path = write_config(tmp_path / "config.yaml", tiny_model(True), countdown_files, rollout=rollout)
    config = load_config(TrainConfig, path, [])
    longest = config.data.prompt_max_len + 416
    places = Places.on_cpu(train_demand(config))
    (engine,) = start_engines(train_engine_settings(config, places), 1, places.engines, kind=CountingEngine)
    tokens = ray.get(engine.num_cache_tokens.remote(), timeout=200)
    ray.kill(engine)
    blocks = -(-longest // 128)
    assert 17 * blocks * 128 <= tokens <= 18 * blocks * 128
