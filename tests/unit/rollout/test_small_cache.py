"""A KV cache that is too small: vLLM's own errors, told with the names of our settings."""

from pathlib import Path

import pytest

from openr1.errors import ConfigError
from openr1.rollout import engine
from openr1.rollout.engine import EngineSettings, build_llm

GIB = 2**30


def settings_of(kv_cache_bytes: int | None) -> EngineSettings:
    return EngineSettings(
        model_path=Path("model"),
        dtype="float32",
        max_model_len=160,
        max_num_seqs=8,
        kv_cache_bytes=kv_cache_bytes,
        gpu_memory_utilization=0.5,
        tensor_parallel_size=1,
        visible_devices="",
        interface="lo",
        config_overrides={},
        on_gpu=kv_cache_bytes is None,
        weight_transfer_backend="none",
        log_path=Path("engine.log"),
    )


@pytest.mark.parametrize(
    ("kv_cache_bytes", "available", "told"),
    [
        (GIB // 4, GIB // 4, r"a KV cache of 0.25 GiB cannot hold one sequence of 160 tokens, which takes 0\.5 GiB; "),
        (None, GIB // 4, r"no room is left for a KV cache that holds one sequence of 160 tokens, which takes 0\.5 GiB"),
        (None, -GIB, "no room is left for a KV cache that holds one sequence of 160 tokens; raise"),
    ],
)
def test_a_cache_that_is_too_small(
    kv_cache_bytes: int | None, available: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches advice to raise a setting that openr1 does not have, and the one that helps left unnamed."""
    from vllm.v1.core.kv_cache_utils import _check_enough_kv_cache_memory

    def start(settings: EngineSettings) -> None:
        """What vLLM does at this point of its start: half a GiB is needed."""
        _check_enough_kv_cache_memory(available, lambda: GIB // 2, settings.max_model_len, lambda size: 80)

    monkeypatch.setattr(engine, "_new_llm", start)
    with pytest.raises(ConfigError, match=told) as raised:
        build_llm(settings_of(kv_cache_bytes))
    setting = "rollout.gpu_memory_utilization" if kv_cache_bytes is None else "rollout.kv_cache_gib"
    assert str(raised.value).endswith(f"; raise {setting}")


def test_other_errors_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches every failure of vLLM blamed on the cache."""

    def start(settings: EngineSettings) -> None:
        raise ValueError("unknown model")

    monkeypatch.setattr(engine, "_new_llm", start)
    with pytest.raises(ValueError, match="unknown model"):
        build_llm(settings_of(None))
