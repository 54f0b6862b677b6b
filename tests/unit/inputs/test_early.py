"""What is wrong with a run's files is said at once, before torch and transformers are imported."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.data.weight_files import NO_CONFIG
from openr1.errors import ConfigError, MissingError
from openr1.inputs.early import check_files
from tests.running import ROOT

ROW = {"id": "1", "prompt": "1 + 1", "label": "2", "task": "math"}


@pytest.fixture
def model(tiny_model: Callable[[bool], Path], tmp_path: Path) -> Path:
    """A copy of the tiny model, to damage."""
    return Path(shutil.copytree(tiny_model(True), tmp_path / "model"))


def write_rows(path: Path, *rows: dict[str, object]) -> Path:
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_of(model: Path, tmp_path: Path, **sections: object) -> TrainConfig:
    """A run on `train.jsonl` of the folder."""
    values = {"data": {"train": str(tmp_path / "train.jsonl")}, "reward": {"url": None}} | sections
    config = tmp_path / "config.yaml"
    run = {"run": {"name": "test", "output_dir": str(tmp_path)}, "model": {"path": str(model)}, "num_steps": 1}
    config.write_text(json.dumps(run | values))
    return load_config(TrainConfig, config, [])


def test_what_is_wrong_is_found(model: Path, tmp_path: Path) -> None:
    """Catches a check that looks at the model alone, at the first row alone, or not at held-out rows."""
    train = write_rows(tmp_path / "train.jsonl", ROW, ROW | {"task": "maths"})
    with pytest.raises(
        ConfigError, match=r"train\.jsonl:2: the reward server has no task 'maths', only code, .*math, "
    ):
        check_files(config_of(model, tmp_path))
    # What grades them decides, and a server that runs already knows tasks of its own.
    check_files(config_of(model, tmp_path, reward={"url": None, "task": "math"}))
    check_files(config_of(model, tmp_path, reward={"url": "http://127.0.0.1:1"}))
    with pytest.raises(ConfigError, match=r"train\.jsonl:1: the reward server has no task 'other'"):
        check_files(config_of(model, tmp_path, reward={"url": None, "task": "other"}))
    write_rows(train, ROW, {"prompt": "1 + 1", "task": "math"})
    with pytest.raises(ConfigError, match=r"train\.jsonl:2: .*`label`"):
        check_files(config_of(model, tmp_path))
    write_rows(train, ROW)
    held_out = {"train": str(train), "held_out": str(tmp_path / "absent.jsonl")}
    with pytest.raises(MissingError, match=r"absent\.jsonl: No such file"):
        check_files(config_of(model, tmp_path, data=held_out))
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(MissingError, match="damaged or cut off"):
        check_files(config_of(model, tmp_path))


@pytest.mark.parametrize("command", ["train", "sft", "dpo"])
def test_it_is_found_before_anything_heavy_is_imported(command: str, tmp_path: Path) -> None:
    """Catches an import of torch or transformers, for which a user waits to be told of a wrong path."""
    shipped = {"train": "grpo_countdown_tiny", "sft": "sft_cot_tiny", "dpo": "dpo_game24_tiny"}[command]
    words = [command, "--config", str(ROOT / f"scripts/configs/{shipped}.yaml"), "--model.path", str(tmp_path)]
    program = f"import sys; from cli.__main__ import main; print(main({words!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3", "False"]
    assert (
        done.stderr == f"{command}: model.path {tmp_path}: no config.json there; give a folder in Hugging Face format\n"
    )
    assert done.stderr == f"{command}: {NO_CONFIG.format(tmp_path)}\n"
