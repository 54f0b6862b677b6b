"""A reward server that a run starts for itself: how it starts, what is said where it does not, and that it ends."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from openr1.errors import ConfigError, MissingError
from openr1.rewards.client import RewardClient
from openr1.rewards.http import TOKEN_VARIABLE
from openr1.rewards.process import running_reward_server
from openr1.types import Group
from tests.fakes import make_prompt, make_response
from tests.running import MARK, ROOT, marked

SECONDS = 120.0
"""Longest wait for anything; on a free machine a server listens after a second or two."""


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A mark that all processes inherit which are started from here on; no token of whoever runs the tests."""
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    return str(tmp_path)


@pytest.fixture(autouse=True)
def nothing_is_left(mark: str) -> Iterator[None]:
    """After every test here, whatever it was about, all processes of its server are gone."""
    yield
    _, alive = psutil.wait_procs(started(mark), timeout=SECONDS)
    assert alive == []


def started(mark: str) -> list[psutil.Process]:
    """Living processes with the mark, but for this one."""
    return [process for process in marked(mark) if process.pid != os.getpid()]


def write_config(folder: Path, text: str) -> Path:
    """A server's configuration."""
    path = folder / "rewards.yaml"
    path.write_text(text)
    return path


def test_a_server_starts_grades_and_ends(tmp_path: Path, mark: str) -> None:
    """Catches an address that is yielded before the server listens, and weights that do not reach it."""
    config = write_config(tmp_path, "tasks: {countdown: {weights: {equation: 2.0, format: 0.0}}}\n")
    label = '{"numbers": [1, 2, 3], "target": 6}'
    right = replace(make_response(7), text="<think>so</think>\n<answer>1+2+3</answer>")
    with running_reward_server(config, timeout_seconds=SECONDS) as url:
        assert url.startswith("http://127.0.0.1:")
        with RewardClient(url, SECONDS, SECONDS) as client:
            client.wait_until_ready()
            (grade,) = client.submit(Group(make_prompt(1, label=label), (right,))).result(SECONDS)
        with urllib.request.urlopen(f"{url}/ready", timeout=SECONDS) as answer:
            assert answer.status == 200
        # A session of its own: Ctrl-C at the terminal must not reach it before the run.
        (server,) = [process for process in psutil.Process().children() if "serve" in process.cmdline()]
        assert os.getsid(server.pid) == server.pid != os.getsid(os.getpid())
    assert (grade.reward, grade.score) == (2.0, 1.0)


def test_a_log_folder_that_is_not_there(tmp_path: Path) -> None:
    """Catches a run folder that exists, and so counts as used, because a run was refused after its server began."""
    logs = tmp_path / "run/logs"
    with running_reward_server(log_folder=logs, timeout_seconds=SECONDS):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("tasks: {countdown: {weights: {equatoin: 1.0}}}", "equatoin"),
        ("a: b: c", "rewards.yaml"),
        (None, "absent.yaml"),
    ],
)
def test_a_bad_configuration_is_the_users(text: str | None, part: str, tmp_path: Path) -> None:
    """Catches a traceback, "it did not start", or a minute of waiting, where a key of the server's file is wrong.

    Also a log that is lost, or that replaces the one of the process before.
    """
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "reward_server.log").write_text("of an earlier process\n")
    config = tmp_path / "absent.yaml" if text is None else write_config(tmp_path, text)
    with pytest.raises(ConfigError) as caught, running_reward_server(config, logs, SECONDS):
        pytest.fail("started")
    message = str(caught.value)
    assert message.startswith("the reward server rejected its configuration: ")
    assert part in message
    assert "serve: " not in message
    assert "\n" not in message
    first, *others = (logs / "reward_server.log").read_text().splitlines()
    assert first == "of an earlier process"
    assert others[-1] == "serve: " + message.removeprefix("the reward server rejected its configuration: ")


def test_a_server_that_does_not_listen_in_time() -> None:
    """Catches a start that waits for ever, and a server that is given up and lives on (see the fixture)."""
    with (
        pytest.raises(MissingError, match=r"did not listen within 0\.001 s \(reward\.ready_timeout_seconds\)"),
        running_reward_server(timeout_seconds=0.001),
    ):
        pytest.fail("started")


def test_a_server_that_dies_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a broken installation that is reported as a wrong configuration, and a message without its cause."""
    # Found before the real one on the child's import path.
    (tmp_path / "sitecustomize.py").write_text("import os, sys; sys.stderr.write('no such luck\\n'); os._exit(7)")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    monkeypatch.setattr("openr1.rewards.process.python_environment", lambda: environment)
    with (
        pytest.raises(MissingError, match=r"exited with code 7: no such luck$"),
        running_reward_server(timeout_seconds=SECONDS),
    ):
        pytest.fail("started")


def test_an_error_in_the_block_ends_the_server(mark: str) -> None:
    """Catches a server that outlives a run which failed."""

    def fail() -> None:
        with running_reward_server(timeout_seconds=SECONDS):
            assert started(mark)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()


PARENT = """
import sys, time
from openr1.rewards.process import running_reward_server
with running_reward_server(timeout_seconds=float(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_a_killed_run_leaves_no_server(mark: str) -> None:
    """Catches a server, or a process that grades for it, that lives on and keeps memory and port for ever."""
    command = [sys.executable, "-c", PARENT, str(SECONDS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            url = parent.stdout.readline().strip()
            with urllib.request.urlopen(f"{url}/health", timeout=SECONDS) as answer:
                assert answer.status == 200
            servers = [process for process in started(mark) if process.pid != parent.pid]
            assert servers
        finally:
            parent.send_signal(signal.SIGKILL)
        parent.wait()
        _, alive = psutil.wait_procs(servers, timeout=SECONDS)
        assert alive == []
