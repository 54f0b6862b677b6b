"""A run's folder: for one process, never written over, resumed with the config that it began with."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openr1.config.load import to_yaml
from openr1.config.train import TrainConfig
from openr1.errors import ConfigError, MissingError
from openr1.tracking.run_folder import check_unused, open_run_folder
from tests.fakes import make_config
from tests.running import ROOT


def test_used_folder_is_refused(tmp_path: Path) -> None:
    """Catches a run written over, and a resume where there is nothing to resume."""
    folder = tmp_path / "run"
    check_unused(folder, resume=False)
    with pytest.raises(MissingError, match="no run to resume"):
        check_unused(folder, resume=True)
    assert not folder.exists()
    config = make_config(tmp_path)
    with open_run_folder(folder, config, resume=False):
        assert (folder / "config.yaml").read_text() == to_yaml(config)
    check_unused(folder, resume=True)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match="already used by a run"):
        check_unused(folder, resume=False)
    check_unused(folder, resume=True)


@pytest.mark.parametrize("kept", ["metrics.jsonl", "checkpoints/step_000002/trainer.json", "model/config.json"])
def test_steps_are_not_overwritten(tmp_path: Path, kept: str) -> None:
    """Catches a run whose rows, checkpoints or exported model make way for another run's."""
    (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / kept).write_text("{}\n")
    with pytest.raises(ConfigError, match="already used by a run"):
        check_unused(tmp_path, resume=False)


def test_a_run_that_made_no_step_can_be_started_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a failed start that claims its name for ever, and a second start that takes the first one's dataset,
    reference, logger or evaluation for its own.
    """
    with open_run_folder(tmp_path, make_config(tmp_path), resume=False):
        pass
    left = [tmp_path / name for name in ("data.json", "tracking.json", "reference_log_probs.jsonl")]
    left += [tmp_path / "eval/step_000000.json"]
    mine = tmp_path / "notes.txt"
    left[-1].parent.mkdir()
    for path in (*left, mine, tmp_path / "metrics.jsonl"):
        path.write_text("")
    other = make_config(tmp_path, rollout={"temperature": 0.5}, num_steps=9)
    check_unused(tmp_path, resume=False)
    with open_run_folder(tmp_path, other, resume=False):
        assert (tmp_path / "config.yaml").read_text() == to_yaml(other)
    assert not any(path.exists() for path in left)
    assert mine.exists()
    assert "made no step; this one takes its place" in capsys.readouterr().out


MACHINE: dict[str, dict[str, Any]] = {
    "policy": {"micro_batch_tokens": 1024, "threads": 2, "timeout_seconds": 9.0},
    "model": {"gradient_checkpointing": True, "packing": False},
    "rollout": {"max_num_seqs": 8, "kv_cache_gib": 0.2, "timeout_seconds": 900, "threads": 2, "num_engines": 2},
    "reward": {"deadline_seconds": 90},
    "checkpoint": {"keep": 1, "save_steps": 5},
    "run": {"output_dir": "elsewhere"},
}


@pytest.mark.parametrize("section", MACHINE)
def test_settings_of_the_machine_may_change(tmp_path: Path, section: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run that ran out of memory or time, and may not go on with the setting that helps; or does so
    silently.
    """
    with open_run_folder(tmp_path, make_config(tmp_path), resume=False):
        pass
    with open_run_folder(tmp_path, make_config(tmp_path, **{section: MACHINE[section]}), resume=True):
        said = capsys.readouterr().out
    for key, value in MACHINE[section].items():
        assert f"resuming with {section}.{key} {value}" in said


OPEN = """
import os, sys
from pathlib import Path
from openr1.tracking.run_folder import open_run_folder
from tests.fakes import make_config
try:
    with open_run_folder(Path(sys.argv[1]), make_config(Path("another")), resume=False):
        os._exit(7)
except Exception as error:
    print(type(error).__name__, error)
"""


def open_in_another_process(folder: Path) -> subprocess.CompletedProcess[str]:
    """Open the folder and die without closing it; what prevents that is printed."""
    command = [sys.executable, "-c", OPEN, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_second_process_is_refused(tmp_path: Path) -> None:
    """Catches two runs that write the same files; the second must not even replace the config."""
    folder = tmp_path / "run"
    config = make_config(tmp_path)
    with open_run_folder(folder, config, resume=False):
        other = open_in_another_process(folder)
        assert other.stdout.startswith(f"ConfigError {folder}: another process is writing")
        # Also before anything is started, such as a reward server that writes its log here.
        with pytest.raises(ConfigError, match="another process is writing"):
            check_unused(folder, resume=False)
        assert (folder / "config.yaml").read_text() == to_yaml(config)
    # The lock ends with its block.
    assert open_in_another_process(folder).returncode == 7


def test_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    """Catches a killed run that can never be resumed, because its lock file is still there."""
    assert open_in_another_process(tmp_path).returncode == 7
    config = make_config(tmp_path)
    with open_run_folder(tmp_path, config, resume=False):
        assert (tmp_path / "config.yaml").read_text() == to_yaml(config)


def test_lock_is_released_by_an_error(tmp_path: Path) -> None:
    """Catches a lock that a failed run in this process keeps."""

    def fail() -> None:
        with open_run_folder(tmp_path, make_config(tmp_path), resume=False):
            raise OSError("disk full")

    for _ in range(2):
        with pytest.raises(OSError, match="disk full"):
            fail()


def test_resume_with_another_config_names_the_keys(tmp_path: Path) -> None:
    """Catches a run that goes on with another model, or a refusal that does not tell what differs."""
    config = make_config(tmp_path)
    with open_run_folder(tmp_path, config, resume=False):
        pass
    changed = make_config(tmp_path, rollout={"temperature": 0.5}, policy={"zero_stage": 1})

    def resume(config: TrainConfig) -> None:
        with open_run_folder(tmp_path, config, resume=True):
            pass

    with pytest.raises(ConfigError) as caught:
        resume(changed)
    assert "other values of policy.zero_stage, rollout.temperature;" in str(caught.value)
    # The config of the run is kept, and the lock is free.
    assert (tmp_path / "config.yaml").read_text() == to_yaml(config)
    # The reward server may stand elsewhere, training may go on for longer, and the step that failed be recorded.
    longer = make_config(tmp_path, reward={"url": "http://127.0.0.1:1"}, debug={"record": "records"}, num_steps=9)
    resume(longer)
    assert (tmp_path / "config.yaml").read_text() == to_yaml(longer)


def test_the_config_is_replaced_whole(tmp_path: Path) -> None:
    """Catches a kill between emptying and writing, after which a run whose checkpoints are all there cannot go on."""
    config = make_config(tmp_path)
    with open_run_folder(tmp_path, config, resume=False):
        pass
    (tmp_path / "before").hardlink_to(tmp_path / "config.yaml")
    with open_run_folder(tmp_path, make_config(tmp_path, num_steps=9), resume=True):
        pass
    assert (tmp_path / "before").read_text() == to_yaml(config)


def test_a_run_of_before_a_key_was_there_can_be_resumed(tmp_path: Path) -> None:
    """Catches runs that end with an update of openr1, and a new key that is set on resuming all the same."""
    config = make_config(tmp_path)
    values = config.model_dump(mode="json")
    del values["off_policy"], values["algorithm"]["max_epochs"]
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    with open_run_folder(tmp_path, config, resume=True):
        pass
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    changed = make_config(tmp_path, algorithm={"max_epochs": 2})
    with (
        pytest.raises(ConfigError, match=r"other values of algorithm\.max_epochs;"),
        open_run_folder(tmp_path, changed, True),
    ):
        pass
