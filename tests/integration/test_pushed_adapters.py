"""Adapters of a LoRA policy arrive at real engines, of one process and of two, over shared memory and gloo."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
import torch

from data.generate.tiny_model import write_tiny_model
from openr1.actors.gpu_memory import put_to_sleep
from openr1.config.train import TrainConfig
from tests.integration.test_failed_pushes import push_config
from tests.pushing import BOUND, Connected, connected, replace_policy

pytestmark = pytest.mark.timeout(600)

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module", params=["gloo"])
def engines(
    request: pytest.FixtureRequest,
    ray_cluster: None,
    countdown_files: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Connected]:
    """An engine in one process and one in two, with a tied head; the rank is one that vLLM has no room of."""
    folder = tmp_path_factory.mktemp("adapters")
    # The size of a model whose heads can be split over two processes.
    write_tiny_model(folder / "model", hidden_size=128, layers=2, tied=True, dtype=torch.float32)
    config = push_config(folder / "model", countdown_files, folder, request.param, num_ranks=2, zero_stage=3)
    values = config.model_dump()
    values["model"] |= {"lora": {"rank": 3, "alpha": 9.0}}
    with connected(TrainConfig.model_validate(values), folder, (1, 2)) as one:
        yield one


def test_engines_begin_with_the_base_model(engines: Connected) -> None:
    """Catches an engine whose requests have no adapter before the first push, or one of vLLM's own trials."""
    assert max(engines.differences(0)) < BOUND


@pytest.mark.parametrize(
    ("engines", "zero_stage"), [("gloo", 3), pytest.param("shm", 2, marks=pytest.mark.slow)], indirect=["engines"]
)
def test_every_adapted_layer_arrives(engines: Connected, tmp_path: Path, zero_stage: int) -> None:
    """Catches A and B swapped, a scaling that is left out or comes twice, a layer that vLLM has joined and that takes
    the adapter of its neighbour, a half that gets the other half's rows, adapters that vLLM drops at the end of an
    update, and an engine that goes on with its cache of before.
    """
    if engines.config.policy.zero_stage != zero_stage:
        replace_policy(engines, zero_stage, tmp_path / "logs")
    for layer in LAYERS:
        assert min(engines.on_ranks("change", f"{layer}.lora_")) == 4  # A and B of two layers.
        assert min(engines.differences(engines.version)) > 20 * BOUND, layer
        engines.push()
        assert max(engines.differences(engines.version)) < BOUND, layer


def test_nothing_but_adapters_is_sent(engines: Connected) -> None:
    """Catches base weights that travel with every push, though they never change."""
    assert min(engines.on_ranks("change", "embed_tokens")) == 1
    engines.push()
    assert min(engines.differences(engines.version)) > 20 * BOUND
    engines.on_ranks("undo")
    assert max(engines.differences(engines.version)) < BOUND


def test_an_update_that_fails_half_way(engines: Connected) -> None:
    """Catches adapters of a layer that the engine does not know, which vLLM ignores, and tensors of a push that was
    given up in the one that follows it.
    """
    assert min(engines.on_ranks("change", "lora_")) > 0
    for engine in engines.engines:
        ray.get(engine.fail.remote("load", 1, "part"))
    engines.push()
    assert max(engines.differences(engines.version)) < BOUND


def test_responses_in_flight_go_on_under_new_adapters(engines: Connected) -> None:
    """Catches a sleeping engine that does not wait for adapters, and requests of before that name none."""
    with ThreadPoolExecutor(1) as thread:
        put_to_sleep(engines.engines, 60)
        waiting = thread.submit(engines.sample, 0)
        assert min(engines.on_ranks("change", "lora_")) > 0
        engines.push()
        groups = waiting.result(timeout=60)
    assert {one.weight_version for group in groups for one in group.responses} == {engines.version}
    assert max(engines.differences(engines.version)) < BOUND


@pytest.mark.slow
@pytest.mark.parametrize("engines", ["shm"], indirect=True)
def test_an_engine_that_is_started_again_gets_the_adapters(engines: Connected) -> None:
    """Catches an engine that generates with the base model after its process has died."""
    assert min(engines.on_ranks("change", "lora_")) > 0
    ray.get(engines.engines[0].fail.remote("load", 1, "kill"))
    engines.push()
    assert max(engines.differences(engines.version)) < BOUND
