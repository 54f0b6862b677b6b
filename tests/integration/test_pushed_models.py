"""Weights arrive from two ranks, over shared memory and gloo, gathered under ZeRO 3 or not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_failed_pushes import push_config
from tests.pushing import BOUND, Connected, connected, replace_policy

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture(scope="module")
def engine(
    request: pytest.FixtureRequest,
    ray_cluster: None,
    tiny_model: Callable[[bool], Path],
    countdown_files: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Connected]:
    """One engine with a tied head, which the parameter is the transport to, and a policy that each test replaces."""
    folder = tmp_path_factory.mktemp("models")
    config = push_config(tiny_model(True), countdown_files, folder, request.param, num_ranks=2, zero_stage=1)
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"num_engines": 1})})
    with connected(config, folder) as one:
        yield one


# How a rank gathers, and how it sends, know nothing of each other. test_failed_pushes has ZeRO 3 over both.
@pytest.mark.parametrize(("engine", "zero_stage"), [("gloo", 1), ("shm", 2), ("shm", 3)], indirect=["engine"])
def test_the_engine_gets_what_the_policy_has(engine: Connected, tmp_path: Path, zero_stage: int) -> None:
    """Catches a rank's part of a weight that is sent for the whole, and a second policy whose connection the engine
    does not take.
    """
    replace_policy(engine, zero_stage, tmp_path / "logs")
    engine.push()
    assert max(engine.differences(engine.version)) < BOUND
    assert min(engine.on_ranks("change")) > 0
    assert max(engine.differences(engine.version)) > 20 * BOUND
    engine.push()
    assert max(engine.differences(engine.version)) < BOUND
