"""No secret in a config: it is refused where it is given, in one line that does not repeat it."""

from pathlib import Path

import pytest

from cli.__main__ import main
from openr1.config.load import load_config
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError
from tests.running import ROOT

CONFIG = ROOT / "scripts/configs/grpo_countdown_tiny.yaml"
SECRET = "made-up-0123456789abcdef"
"""Of no service."""


@pytest.mark.parametrize(
    "words",
    [
        ["--tracking.project", f"hf_{'a1' * 17}"],
        ["--tracking.project", f"sk-{'a1' * 17}"],
        ["--tracking.project=wandb_v1_" + "a1" * 20],
        ["--run.name", f"with-ghp_{'a1' * 18}"],
        ["--reward.url", f"http://me:{SECRET}@127.0.0.1:5000"],
        ["--reward.url", f"[http://127.0.0.1:5000,http://{SECRET}@127.0.0.1:5001]"],
        ["--data.template_arguments", f"{{note: 'my {SECRET}'}}"],
        ["--tracking.mode", SECRET],
    ],
)
def test_secrets_are_refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a key that gets into config.yaml, into a logger's settings, or into the message that refuses it."""
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    with pytest.raises(ConfigError, match="holds a key or password, which everybody could read; secrets come") as told:
        load_config(TrainConfig, CONFIG, words)
    assert SECRET not in str(told.value)
    assert "a1a1" not in str(told.value)
    assert "\n" not in str(told.value)


def test_secrets_in_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check of the command line alone."""
    monkeypatch.setenv("MY_API_KEY", SECRET)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.read_text() + f"tracking:\n  workspace: {SECRET}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: tracking\.workspace holds a key or password"):
        load_config(TrainConfig, path, [])


@pytest.mark.parametrize("key", ["tracking.api_key", "reward.token", "wandb_key", "tracking.password"])
def test_a_setting_for_a_secret_does_not_exist(key: str) -> None:
    """Catches a message that repeats the secret, or that leads to another setting to put it into."""
    with pytest.raises(ConfigError, match=f"unknown key {key}, secrets come from the environment") as told:
        load_config(TrainConfig, CONFIG, [f"--{key}", SECRET])
    assert SECRET not in str(told.value)
    assert "did you mean" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_API_KEY", "short"),
        ("MONKEY", "data/samples"),
        ("TOKENIZERS_PARALLELISM", "data/samples"),
        ("PATH_TO_DATA", "data/samples"),
    ],
)
def test_ordinary_settings_pass(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches names and paths that are taken for secrets, by their looks or because a variable has the same value."""
    monkeypatch.setenv(name, value)
    words = [
        "--run.name",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        "--tracking.project",
        "sk-learn_and_other_baselines",
    ]
    config = load_config(TrainConfig, CONFIG, [*words, "--reward.url", "http://127.0.0.1:5000/a@b"])
    assert config.run.name == words[1]


def test_a_dry_run_prints_no_variable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a dump of the environment beside the resolved config."""
    for name in ("OPENR1_REWARD_TOKEN", "WANDB_API_KEY", "SWANLAB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    assert main(["train", "--config", str(CONFIG), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "learning_rate" in shown.out
    assert SECRET not in shown.out + shown.err
