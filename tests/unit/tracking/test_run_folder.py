"""A run's folder: for one process, never written over, resumed with the config that it began with."""

import json
import subprocess
import sys
from pathlib import Path

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
    with pytest.raises(ConfigError, match="already used by a run"):
        check_unused(folder, resume=False)
    check_unused(folder, resume=True)


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
