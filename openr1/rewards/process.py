"""Starts a reward server as a child process, for runs with `reward.url: null`, tests and benchmarks."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO

from openr1.errors import ConfigError, MissingError
from openr1.runtime.process import python_environment

ANNOUNCEMENT = "reward server: "
"""Prefix of the line with its address that the server prints once it listens."""
STOP_SECONDS = 20.0
USAGE_ERROR = 2

WaitForAddress = Callable[[float], str]
"""See `starting_reward_server`."""


@contextmanager
def running_reward_server(
    config: Path | None = None,
    log_folder: Path | None = None,
    timeout_seconds: float = 60.0,
    module: str | None = None,
) -> Iterator[str]:
    """Run a reward server as `starting_reward_server` does, and wait until it listens.

    Yields:
        Its address. It may not be ready to grade yet; `/ready` tells.
    """
    with starting_reward_server(config, log_folder, module) as wait_for_address:
        yield wait_for_address(timeout_seconds)


@contextmanager
def starting_reward_server(
    config: Path | None = None, log_folder: Path | None = None, module: str | None = None
) -> Iterator[WaitForAddress]:
    """Start a reward server on a free loopback port for the block. It ends with this process, even if that is killed.

    Args:
        config: YAML file of the server (weights, limits, tasks); None for the defaults.
        log_folder: Folder in which the output is appended to `reward_server.log` at the end, if the folder exists by
            then.
        module: The user's reward functions; None for the server's own tasks only.

    Yields:
        What waits until it listens, so many seconds at most, and returns its address. Raises:
            ConfigError: The server rejected its configuration; the message is the server's.
            MissingError: The server did not start.
    """
    with tempfile.TemporaryFile("a+b") as log:
        command = [sys.executable, "-m", "openr1.rewards.serve_child", "serve", "--port", "0"]
        flags = [] if config is None else ["--config", str(config)]
        flags += [] if module is None else ["--module", module]
        process = subprocess.Popen(
            command + flags,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # Ctrl-C must reach only the run, which stops the server after everything that uses it.
            start_new_session=True,
            env=python_environment(),
        )

        def wait_for_address(timeout_seconds: float) -> str:
            line = _first_line(process, timeout_seconds)
            if not line.startswith(ANNOUNCEMENT):
                _raise_failure(process, _read_log(log).decode(errors="replace"), timeout_seconds)
            return line.removeprefix(ANNOUNCEMENT).strip()

        try:
            yield wait_for_address
        finally:
            _stop(process)
            if log_folder is not None and log_folder.is_dir():
                with (log_folder / "reward_server.log").open("ab") as kept:
                    kept.write(_read_log(log))


def _first_line(process: "subprocess.Popen[str]", timeout_seconds: float) -> str:
    """The first line of output; empty if the process ended, or printed nothing in time."""
    lines: Queue[str] = Queue()
    output = process.stdout
    assert output is not None
    # A blocking read of a pipe takes no timeout; a queue filled by a reader thread does.
    Thread(target=lambda: lines.put(output.readline()), daemon=True).start()
    try:
        return lines.get(timeout=timeout_seconds)
    except Empty:
        return ""


def _read_log(log: IO[bytes]) -> bytes:
    log.seek(0)
    return log.read()


def _raise_failure(process: "subprocess.Popen[str]", log: str, timeout_seconds: float) -> None:
    last = (log.strip().splitlines() or ["it printed nothing"])[-1]
    try:
        code = process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        raise MissingError(
            f"the reward server did not listen within {timeout_seconds:g} s (reward.ready_timeout_seconds): {last}"
        ) from None
    if code == USAGE_ERROR:
        raise ConfigError(f"the reward server rejected its configuration: {last.removeprefix('serve: ')}")
    raise MissingError(f"the reward server exited with code {code}: {last}")


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
