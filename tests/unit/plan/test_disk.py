"""What a run needs on its disk, by hand for the tiny model, and the refusal where there is less."""

from pathlib import Path

import pytest

from openr1.config.load import validate
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig
from openr1.errors import MissingError
from openr1.plan.disk import check_room, checkpoint_bytes, count_checkpoints, record_bytes
from openr1.plan.traces import Traces
from openr1.runtime.disk import in_gib
from tests.fakes import make_config
from tests.running import ROOT
from tests.small_disk import fill, small_disk

MODEL = str(ROOT / "data/models/tiny_base")
ELEMENTS = 1_723_584
"""Of the model; its export takes 4 bytes each in float32, 2 in bfloat16."""
ADAPTERS = 110_592
"""Elements of its adapters of rank 8."""


def make(folder: Path, dtype: str = "float32", **sections: object) -> TrainConfig:
    """A run of the tiny model."""
    model = sections.pop("model", {})
    assert isinstance(model, dict)
    return make_config(folder, model={"path": MODEL, "dtype": dtype, **model}, **sections)


@pytest.mark.parametrize(
    ("dtype", "zero_stage", "expected"),
    [
        # Export, weights, two moments.
        ("float32", 0, (4 + 4 + 8) * ELEMENTS),
        # The same, and master weights.
        ("float32", 1, (4 + 4 + 12) * ELEMENTS),
        ("bfloat16", 2, (2 + 2 + 12) * ELEMENTS),
        # No weights but the master weights.
        ("bfloat16", 3, (2 + 12) * ELEMENTS),
    ],
)
def test_bytes_of_a_checkpoint(tmp_path: Path, dtype: str, zero_stage: int, expected: int) -> None:
    """Catches a part of a checkpoint that is forgotten or counted twice, and the wrong data type."""
    config = make(tmp_path, dtype, policy={"zero_stage": zero_stage})
    assert checkpoint_bytes(config, Traces(None)) == expected


@pytest.mark.parametrize(("zero_stage", "frozen_bytes"), [(1, 2 * (ELEMENTS + ADAPTERS)), (3, 2 * ELEMENTS)])
def test_bytes_of_adapters(tmp_path: Path, zero_stage: int, frozen_bytes: int) -> None:
    """Catches moments of frozen weights, and frozen weights left out: DeepSpeed writes them."""
    config = make(tmp_path, "bfloat16", model={"lora": {"rank": 8}}, policy={"zero_stage": zero_stage})
    exported = 2 * (ELEMENTS + ADAPTERS)
    assert checkpoint_bytes(config, Traces(None)) == exported + frozen_bytes + 12 * ADAPTERS


@pytest.mark.parametrize(
    ("save_steps", "keep", "eval_steps", "expected"),
    [(10, 2, 0, 3), (10, 2, 5, 4), (0, 2, 0, 1), (50, 5, 0, 2), (60, 5, 0, 2), (100, 5, 100, 2)],
)
def test_number_of_checkpoints(tmp_path: Path, save_steps: int, keep: int, eval_steps: int, expected: int) -> None:
    """Catches the one being written or the best one left out, and more than the run has steps to save."""
    sections = {"checkpoint": {"save_steps": save_steps, "keep": keep}, "evaluation": {"eval_steps": eval_steps}}
    assert count_checkpoints(make(tmp_path, **sections), num_steps=100) == expected


def test_bytes_of_rollouts(tmp_path: Path) -> None:
    """Catches files counted that are removed, or counted as if they were not compressed."""
    # Four responses a step, of at most 8 tokens to prompts of at most 512.
    step = 4 * (4 * 260 + 600)
    assert record_bytes(make(tmp_path), 100) == 100 * step
    tracking = {"keep_rollouts": 10, "compress_rollouts": True}
    assert record_bytes(make(tmp_path, tracking=tracking), 100) == 10 * step // 4


def test_too_little_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run that starts and cannot save, one refused for checkpoints that it has already written, and numbers
    that are not those of this disk."""
    one = 20 * ELEMENTS
    sections = {"checkpoint": {"save_steps": 1, "keep": 1}, "tracking": {"keep_rollouts": 1}}
    with small_disk(tmp_path / "disk", 3 * one) as disk:
        config = make(disk, **sections)
        assert check_room(config, 3) == one
        filling = fill(disk, one + one // 2)
        with pytest.raises(MissingError, match=r"are free there, and the run needs .*: 2 checkpoint\(s\)") as told:
            check_room(config, 3)
        for number in (one + one // 2, 2 * one + record_bytes(config, 3), one):
            assert in_gib(number) in str(told.value)
        assert "lower checkpoint.keep" in str(told.value)
        checkpoint = {**sections["checkpoint"], "on_failed_save": "continue"}
        assert check_room(make(disk, **sections | {"checkpoint": checkpoint}), 3) == one
        assert "warning: " in capsys.readouterr().out
        filling.unlink()
        # A run that has a checkpoint, and room for one more.
        (config.run.folder / "checkpoints/step_000001").mkdir(parents=True)
        (config.run.folder / "checkpoints/step_000001/weights.bin").write_bytes(bytes(one))
        fill(disk, one + one // 2)
        assert check_room(config, 3) == one


def test_the_last_export_of_sft(tmp_path: Path) -> None:
    """Catches the model at the end of SFT, for which there is no room once the checkpoints are written."""
    one = 20 * ELEMENTS
    values = {
        "run": {"name": "sft", "output_dir": str(tmp_path / "disk")},
        "model": {"path": MODEL, "dtype": "float32"},
        "data": {"train": "train.jsonl"},
    }
    with small_disk(tmp_path / "disk", 2 * one) as disk:
        values["run"]["output_dir"] = str(disk)
        config = validate(SftConfig, values, "test")
        fill(disk, one + 3 * ELEMENTS)
        with pytest.raises(MissingError, match=r"1 checkpoint\(s\)"):
            check_room(config, 3)
        fill(disk, one + 5 * ELEMENTS)
        assert check_room(config, 3) == one
