"""The table of docs/gpu.md is what the layouts do."""

import re
from typing import Any

import pytest

from openr1.actors.rl import train_demand
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.placement.layouts import Machine, place
from tests.running import ROOT

ROWS = re.findall(r"^\| (\d+) \| (\w+) \| (.*) \|$", (ROOT / "docs/gpu.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_table_is_found() -> None:
    """Catches a pattern that finds no rows, with which the test below would pass on any page."""
    assert {(int(number), layout) for number, layout, _ in ROWS} >= {(0, "cpu"), (1, "colocated"), (8, "colocated")}


@pytest.mark.parametrize(("number", "layout", "actors"), ROWS)
def test_rows_are_what_happens(number: str, layout: Any, actors: str) -> None:
    """Catches a default of a layout that changed, and a row of `auto` that is not what the demo gets."""
    config = load_config(TrainConfig, ROOT / "scripts/configs/grpo_countdown_tiny.yaml", [])
    demand = train_demand(config)
    assert place(layout, demand, Machine(int(number))).describe() == actors
    if layout in ("cpu", "colocated"):
        assert place("auto", demand, Machine(int(number))).describe() == actors
