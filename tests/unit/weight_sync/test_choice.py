"""Which transfer fits where policy and engines are: a table by hand."""

from pathlib import Path

import pytest

from openr1.actors.engines import train_engine_settings
from openr1.actors.rl import train_demand
from openr1.errors import ConfigError
from openr1.placement.group import Places
from openr1.weight_sync.choice import Site, choose_transport
from tests.fakes import make_config

CPU = {nodes: Site(nodes, (None, None), ((), ())) for nodes in (1, 2)}
SEPARATE = {nodes: Site(nodes, (0, 1), ((2,), (3,))) for nodes in (1, 2)}
"""Two ranks and two engines, with GPUs of their own."""
COLOCATED = {nodes: Site(nodes, (0, 1), ((0,), (1,))) for nodes in (1, 2)}
BESIDE_RANK_1 = {nodes: Site(nodes, (0, 1), ((1,), (2,))) for nodes in (1, 2)}
"""Engine 0 is on the GPU of rank 1, engine 1 on one of its own."""
SPLIT = {nodes: Site(nodes, (0, 1), ((0, 1),)) for nodes in (1, 2)}
"""One engine over the GPUs of both ranks."""


@pytest.mark.parametrize(
    ("wanted", "site", "chosen"),
    [
        ("auto", CPU[1], "shm"),
        ("auto", SEPARATE[1], "shm"),
        ("auto", COLOCATED[1], "shm"),
        ("auto", CPU[2], "gloo"),
        ("auto", SEPARATE[2], "nccl"),
        ("auto", BESIDE_RANK_1[2], "nccl"),
        ("auto", COLOCATED[2], "gloo"),
        ("auto", SPLIT[2], "gloo"),
        ("shm", CPU[1], "shm"),
        ("shm", COLOCATED[1], "shm"),
        ("gloo", CPU[1], "gloo"),
        ("gloo", COLOCATED[2], "gloo"),
        ("nccl", SEPARATE[1], "nccl"),
        ("nccl", BESIDE_RANK_1[2], "nccl"),
        ("ipc", COLOCATED[1], "ipc"),
        ("ipc", SPLIT[2], "ipc"),
    ],
)
def test_chosen(wanted: str, site: Site, chosen: str) -> None:
    """Catches NCCL on a GPU that has both ends, and a transfer that does not reach other machines."""
    assert choose_transport(wanted, site) == chosen


@pytest.mark.parametrize(
    ("wanted", "site", "message"),
    [
        ("shm", CPU[2], "shm needs policy and engines on one machine, and they are on 2: take auto, nccl or gloo"),
        ("nccl", CPU[1], "nccl is for GPUs, and policy and engines are on the CPU: take auto, shm or gloo"),
        ("ipc", CPU[1], "ipc is for GPUs, and policy and engines are on the CPU"),
        ("nccl", COLOCATED[1], "two ends on one GPU, and engine 0 is on that of policy rank 0: take auto"),
        ("nccl", SPLIT[2], "two ends on one GPU, and engine 0 is on that of policy rank 0"),
        ("ipc", SEPARATE[1], "a policy rank on every GPU of an engine, and engine 0 has one without"),
        ("ipc", BESIDE_RANK_1[1], "and engine 1 has one without: take auto, or placement.layout colocated"),
    ],
)
def test_refused(wanted: str, site: Site, message: str) -> None:
    """Catches a run that starts, and fails or hangs at its first push instead."""
    with pytest.raises(ConfigError, match=f"^weight_sync.backend {wanted} .*") as raised:
        choose_transport(wanted, site)
    assert message in str(raised.value)


def test_a_run_without_gpus(tmp_path: Path) -> None:
    """Catches engines that are started for another transfer than the configured one, or for one that cannot reach
    them.
    """
    for backend, name in (("auto", "openr1_shm"), ("gloo", "openr1_gloo")):
        config = make_config(tmp_path, rollout={"kv_cache_gib": 1.0}, weight_sync={"backend": backend})
        (settings,) = train_engine_settings(config, Places.on_cpu(train_demand(config)))
        assert settings.weight_transfer_backend == name
    config = make_config(tmp_path, weight_sync={"backend": "nccl"})
    with pytest.raises(ConfigError, match="nccl is for GPUs"):
        train_engine_settings(config, Places.on_cpu(train_demand(config)))
