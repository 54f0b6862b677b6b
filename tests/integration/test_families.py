"""The examination of model families finds planted faults, and says where they are."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from benchmarks.families import Conformance, Pair, examine_groups, started
from benchmarks.model_families import family, write_family
from openr1.config.sections import ModelConfig
from openr1.rollout.engine import EngineActor, EngineSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class StaleEngine(EngineActor):
    """An engine in which some tensors stay as the first push brought them."""

    _stale = "none"
    _first: dict[str, torch.Tensor] | None = None

    async def keep(self, part: str) -> None:
        """Keep tensors with this in their names from now on."""
        self._stale = part

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load the others, and the old ones again."""
        tensors = load_file(update_info["path"])
        self._first = self._first or tensors
        old = {name: tensor for name, tensor in self._first.items() if self._stale in name}
        path = f"{update_info['path']}.stale"
        save_file(tensors | old, path)
        await super().update_weights({"path": path})
        Path(path).unlink()


class OtherRopeEngine(EngineActor):
    """An engine that rotates by other angles."""

    def __init__(self, settings: EngineSettings) -> None:
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
        super().__init__(replace(settings, config_overrides=rope))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """A random Qwen3 with a head of its own."""
    folder = tmp_path_factory.mktemp("qwen3")
    write_family(family("Qwen3"), False, folder)
    return ModelConfig(path=folder, dtype="float32")


@pytest.fixture(scope="module")
def stale(ray_cluster: None, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A policy, and an engine that keeps old tensors on demand."""
    with started(model, tmp_path_factory.mktemp("stale"), StaleEngine) as pair:
        yield pair


@pytest.mark.parametrize(
    ("part", "group"),
    [
        ("layers.1.self_attn.v_proj", "model.layers.*.self_attn.v_proj.weight"),
        ("lm_head", "lm_head.weight"),
        ("nothing has this name", None),
    ],
)
def test_a_tensor_that_does_not_arrive_is_named(stale: Pair, part: str, group: str | None) -> None:
    """Catches an examination that would call a lost tensor or an old head correct, or blame another group for it."""
    ray.get(stale.engine.keep.remote(part))
    found = Conformance("Qwen3", False, lora=0.0, packed=0.0, exported=0.0)
    examine_groups(stale, found)
    assert found.faults() == ([group] if group else [])


def test_other_positions_are_not_blamed_on_weights(ray_cluster: None, model: ModelConfig, tmp_path: Path) -> None:
    """Catches an engine with another RoPE base: no weight differs, and every token but the first does."""
    found = Conformance("Qwen3", False)
    with started(model, tmp_path, OtherRopeEngine) as pair:
        pair.push()
        found.first_token, found.before = pair.differences()
    assert found.faults() == ["positions"]
