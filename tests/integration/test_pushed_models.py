"""Weights arrive from every kind of policy, over shared memory and gloo: ZeRO 1 to 3 on two ranks, and LoRA."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.integration.test_failed_pushes import push_config
from tests.pushing import BOUND, Connected, connected, start_policy

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

LORA = {"rank": 4, "alpha": 8, "target_modules": ["q_proj", "down_proj"]}


@pytest.fixture(scope="module", params=["gloo", "shm"])
def engine(
    request: pytest.FixtureRequest,
    ray_cluster: None,
    tiny_model: Callable[[bool], Path],
    countdown_files: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Connected]:
    """One engine with a tied head, and a policy that is replaced by each test."""
    folder = tmp_path_factory.mktemp("models")
    config = push_config(tiny_model(True), countdown_files, folder, request.param, num_ranks=2, zero_stage=1)
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"num_engines": 1})})
    with connected(config, folder) as one:
        yield one


@pytest.mark.parametrize(
    ("zero_stage", "lora"), [(1, None), (2, None), (3, None), (2, LORA), (3, LORA)], ids=lambda value: str(value)[:5]
)
def test_the_engine_gets_what_the_policy_has(
    engine: Connected, tmp_path: Path, zero_stage: int, lora: dict[str, Any] | None
) -> None:
    """Catches a rank's part of a weight that is sent for the whole, adapters that are not merged or merged twice, and
    a second policy whose connection the engine does not take.
    """
    config = engine.config
    values = config.model_dump() | {"model": config.model.model_dump() | {"lora": lora}}
    values["policy"] |= {"zero_stage": zero_stage}
    for worker in engine.workers:
        ray.kill(worker)
    engine.config = type(config).model_validate(values)
    engine.workers, engine.policy = start_policy(engine.config, tmp_path / "logs")
    engine.on_ranks("cut", 2**15)
    engine.connect()
    engine.push()
    assert max(engine.differences(engine.version)) < BOUND
    assert min(engine.on_ranks("change", "lora_" if lora else "")) > 0
    assert max(engine.differences(engine.version)) > 20 * BOUND
    engine.push()
    assert max(engine.differences(engine.version)) < BOUND
