"""Bad input ends with one clear line, exit code 2 or 3, and nothing written."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cli.__main__ import main
from tests.running import ROOT, write_config


@pytest.fixture
def config(tiny_model: Callable[[bool], Path], countdown_files: Path, tmp_path: Path) -> Path:
    """A good config, with a copy of the model and data that a test may spoil."""
    shutil.copytree(tiny_model(True), tmp_path / "model")
    shutil.copytree(countdown_files, tmp_path / "data")
    return write_config(tmp_path / "config.yaml", tmp_path / "model", tmp_path / "data")


def fails_with(capsys: pytest.CaptureFixture[str], words: list[str], code: int, *texts: str) -> None:
    """Run `train` and check exit code, that stderr is one line, and that it contains the texts."""
    assert main(["train", *words]) == code
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    for text in texts:
        assert text in lines[0]


def nothing_written(config: Path) -> None:
    """The run folder does not exist."""
    assert not (config.parent / "runs").exists()


def train_words(config: Path, *overrides: str) -> list[str]:
    return ["--config", str(config), "--reward.url", "http://127.0.0.1:9", *overrides]


def test_missing_model(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a hub look-up or a traceback where the model folder does not exist."""
    fails_with(capsys, train_words(config, "--model.path", "/nowhere"), 3, "model.path /nowhere")
    nothing_written(config)


def test_missing_dataset(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback where the dataset does not exist."""
    fails_with(capsys, train_words(config, "--data.train", "/nowhere.jsonl"), 3, "/nowhere.jsonl", "No such file")
    nothing_written(config)


def test_empty_dataset(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a division by zero, or an endless loop, on a dataset without rows."""
    (config.parent / "data/train.jsonl").write_text("\n")
    fails_with(capsys, train_words(config), 2, "train.jsonl", "no rows")
    nothing_written(config)


def test_malformed_row(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a message without the place of the row."""
    with (config.parent / "data/train.jsonl").open("a") as file:
        file.write('{"id": "x", "prompt": "p", \n')
    fails_with(capsys, train_words(config), 2, "train.jsonl:65", "not JSON")
    nothing_written(config)


def test_tokenizer_without_chat_template(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches prompts that are silently not rendered."""
    (config.parent / "model/chat_template.jinja").unlink()
    fails_with(capsys, train_words(config), 2, "no chat template")
    nothing_written(config)


def test_long_prompt(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a prompt that is cut to fit."""
    row = {"id": "long", "prompt": "7 " * 100, "label": "{}", "task": "countdown"}
    with (config.parent / "data/train.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    fails_with(capsys, train_words(config), 2, "train.jsonl:65", "prompt_max_len 64")
    nothing_written(config)


def test_batch_sizes_that_do_not_divide(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches responses left over at the end of a step; the message must give the numbers."""
    fails_with(capsys, train_words(config, "--policy.train_batch_size", "5"), 2, "5", "8", "4", "= 32")
    nothing_written(config)


def test_too_few_prompts(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a batch that can never be filled."""
    words = train_words(config, "--rollout.rollout_batch_size", "128", "--policy.train_batch_size", "512")
    fails_with(capsys, words, 2, "64 prompts", "128")
    nothing_written(config)


def test_unknown_key(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a typo that is silently ignored."""
    fails_with(capsys, train_words(config, "--rollout.n_smaples_per_prompt", "4"), 2, "rollout.n_samples_per_prompt")
    nothing_written(config)


def test_reward_server_not_reachable(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches minutes of retries, and a run folder that is left half-written."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        words = ["--config", str(config), "--reward.url", url, "--reward.ready_timeout_seconds", "1"]
        fails_with(capsys, words, 3, url, "python -m cli serve")
    nothing_written(config)


def test_used_run_folder(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run that overwrites another."""
    folder = config.parent / "runs/small"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("run: {}\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    fails_with(capsys, train_words(config), 2, "already used", "--resume")
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "metrics.jsonl"]


@pytest.mark.parametrize(("folder", "told"), [("/etc/passwd", "Not a directory"), ("/proc/nope", "No such file")])
def test_folder_that_cannot_be_made(config: Path, folder: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, with an exit code that is not documented, where a folder cannot be written."""
    fails_with(capsys, ["--config", str(config), f"--run.output_dir={folder}"], 3, folder, told)


def test_resume_without_a_run(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a resume that silently starts from the beginning."""
    fails_with(capsys, train_words(config, "--resume"), 3, "no run to resume")
    nothing_written(config)


def test_port_taken() -> None:
    """Catches a server that dies with a traceback, or listens beside another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "cli", "serve", "--port", port]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 3
    assert len(result.stderr.strip().splitlines()) == 1
    assert port in result.stderr


def test_dry_run_prints_a_config_that_can_be_read_again(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a resolved config that leaves out overrides or cannot be used as a config."""
    assert main(["train", "--config", str(config), "--rollout.temperature", "0.9", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["rollout"]["temperature"] == 0.9
    assert "train_batch_size 32 divides rollout_batch_size 8 x n_samples_per_prompt 4 = 32" in text
    nothing_written(config)


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an unknown command that exits 0."""
    assert main(["trian"]) == 2
    assert "train" in capsys.readouterr().err
