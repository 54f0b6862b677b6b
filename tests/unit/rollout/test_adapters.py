"""What an engine of a LoRA policy is started with."""

import pytest

from openr1.rollout.adapters import AdapterSettings, engine_arguments


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (3, 8), (8, 8), (9, 16), (129, 256), (300, 320), (512, 512)])
def test_the_smallest_room_is_taken(rank: int, room: int) -> None:
    """Catches a rank that vLLM refuses, and room of which most stays empty but is multiplied for every token."""
    arguments = engine_arguments(AdapterSettings(rank, ("q_proj",)))
    assert arguments["max_lora_rank"] == room
    assert arguments["lora_target_modules"] == ["q_proj"]


def test_an_engine_without_adapters_has_none() -> None:
    """Catches the cost of adapters in runs that have none."""
    assert engine_arguments(None) == {}
