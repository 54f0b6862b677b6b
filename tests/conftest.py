"""Fixtures shared by the suite: tiny models on disk, a Ray of the suite's own, a real reward server."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shapes import check_shapes

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before any test module imports openr1.algorithms.
check_shapes()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Folder of a random float32 model (2 layers, hidden 64), tied or untied."""
    from data.generate.tiny_model import write_tiny_model

    folders: dict[bool, Path] = {}

    def get(tied: bool) -> Path:
        import torch

        if tied not in folders:
            folders[tied] = tmp_path_factory.mktemp("tied" if tied else "untied")
            write_tiny_model(folders[tied], hidden_size=64, layers=2, tied=tied, dtype=torch.float32)
        return folders[tied]

    return get


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A Ray that ends with the test module."""
    from openr1.runtime.ray_cluster import running_ray

    with running_ray():
        yield


@pytest.fixture(scope="session")
def countdown_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train.jsonl (64 problems) and held_out.jsonl (16)."""
    from data.generate.countdown import main

    folder = tmp_path_factory.mktemp("countdown")
    sizes = ["--train", "64", "--held-out", "16", "--counts", "3", "--largest", "15", "--wording", "short"]
    assert main(["problems", "--output", str(folder), *sizes, "--target-smallest", "1", "--target-largest", "80"]) == 0
    return folder


@pytest.fixture(scope="module")
def reward_url() -> Iterator[str]:
    """Address of a real reward server in a process of its own."""
    from openr1.rewards.process import running_reward_server

    with running_reward_server(timeout_seconds=120) as url:
        yield url
