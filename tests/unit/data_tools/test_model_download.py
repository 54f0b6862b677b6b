"""`model download`, and models by their name, against a small server that answers as the Hugging Face hub does."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.data_tools.test_download import COMMIT, ROOT, FakeHub, fails, hub

__all__ = ["hub"]

NAME = "Owner/Tiny-1"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(hub: FakeHub, tmp_path: Path) -> Cli:
    """Commands with an empty cache, in an empty folder; the hub has the tiny model, and files that nobody needs."""
    hub.kind = "models"
    files = {path.name: path.read_bytes() for path in (ROOT / "data/models/tiny_base").iterdir()}
    unused = {"pytorch_model.bin": b"x", "consolidated.safetensors": b"x", "onnx/model.safetensors": b"x"}
    hub.offer(NAME, **files, **unused)

    def start(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        kept |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "cache")}
        kept |= {"no_proxy": "127.0.0.1", "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
        command = [sys.executable, "-m", "cli", *words]
        return subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=300, check=False)

    return start


def test_a_model_is_downloaded_once_and_found_by_name(hub: FakeHub, cli: Cli, tmp_path: Path) -> None:
    """Catches a snapshot that the bare name does not find, files that nobody needs, and a run that asks the network."""
    done = cli("model", "download", NAME)
    assert done.returncode == 0, done.stderr
    snapshot = tmp_path / f"cache/hub/models--Owner--Tiny-1/snapshots/{COMMIT}"
    assert f"{snapshot}: complete; use it with --model.path {NAME}" in done.stdout
    names = {path.name for path in snapshot.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not any("bin" in name or "consolidated" in name or "onnx" in name for name in names)
    hub.asked.clear()
    done = cli("sft", "--config", "sft_cot_tiny", "--model.path", NAME, "--dry-run")
    assert f"# ok: model {snapshot}: qwen2, 512 embeddings" in done.stdout, done.stderr
    assert hub.asked == []


def test_a_model_that_is_not_here(hub: FakeHub, cli: Cli) -> None:
    """Catches a run that fetches gigabytes unasked, a message without the command, and a dry run that needs a model."""
    words = ["sft", "--config", "sft_cot_tiny", "--model.path", NAME]
    fails(cli(*words), 3, f"model.path {NAME}: no folder here", f"openr1 model download {NAME}")
    done = cli(*words, "--dry-run")
    assert done.returncode == 0
    assert f"# not here yet: model.path {NAME}: no folder here" in done.stdout
    assert hub.asked == []


def test_a_model_in_a_folder_of_its_own(cli: Cli, tmp_path: Path) -> None:
    """Catches an output folder that is ignored."""
    done = cli("model", "download", NAME, "--output", "models/tiny")
    assert done.returncode == 0, done.stderr
    assert "use it with --model.path models/tiny" in done.stdout
    assert (tmp_path / "models/tiny/model.safetensors").is_file()


def test_downloads_that_fail_are_one_line(hub: FakeHub, cli: Cli) -> None:
    """Catches a traceback without a network, for another name, and for a package that is not installed."""
    with socket.socket() as closed:
        # Bound, so that nobody else listens there, and never listening.
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        fails(cli("model", "download", NAME, HF_ENDPOINT=nowhere), 3, f"{NAME} cannot be read at {nowhere}")
    fails(cli("model", "download", NAME, HF_HUB_OFFLINE="1"), 3, f"{NAME} cannot be read", "set HF_ENDPOINT")
    fails(cli("model", "download", "Owner/Other"), 3, "Owner/Other does not exist at http://127.0.0.1")
    fails(cli("model", "download", "tiny"), 2, "'tiny' is no name of a model; it has the form OWNER/NAME")
    hub.listed["model.safetensors"] = {"blobId": "1" * 40}
    fails(cli("model", "download", NAME), 2, "model.safetensors: git ", "but the hub states 1111")
    fails(cli("model", "download", NAME, "--source", "modelscope"), 3, "needs the package modelscope: pip install")
    del hub.files["model.safetensors"]
    fails(cli("model", "download", NAME), 2, f"{NAME}: no weights in safetensors files at {COMMIT}")
