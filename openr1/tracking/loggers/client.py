"""Asynchronous logging to wandb, SwanLab and TensorBoard, in addition to the records in the run folder.

Training never waits for a logger. Each logger runs in a separate process, fed by a thread from a bounded queue. A slow
logger loses steps, a failing one is disabled, and one that does not finish is killed; each case prints one line, and
the run goes on.
"""

import importlib.util
import json
import netrc
import os
import re
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from multiprocessing.connection import Pipe
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel

from openr1.config.load import flatten
from openr1.config.sections import RunConfig, TrackingConfig
from openr1.errors import ConfigError
from openr1.runtime.console import say
from openr1.runtime.files import write_whole
from openr1.runtime.process import python_environment
from openr1.tracking.loggers.backends import Row, Setup, table_rows
from openr1.tracking.recorder import recorded_steps

BACKENDS = {
    "wandb": "openr1.tracking.loggers.backends:Wandb",
    "swanlab": "openr1.tracking.loggers.backends:SwanLab",
    "tensorboard": "openr1.tracking.loggers.backends:TensorBoard",
}
KEYS = {"wandb": "WANDB_API_KEY", "swanlab": "SWANLAB_API_KEY"}
QUEUE_SIZE = 256
"""Maximum number of steps queued for a logger; further ones are dropped."""
CATCH_UP_STEPS = QUEUE_SIZE // 2
"""How many steps a resumed run may queue at once: with a full queue, the first new ones would be dropped."""
MAX_FAILURES = 5
"""Number of consecutive failures that disables a logger."""
START_SECONDS = 60.0
"""Time limit for a logger to start; training does not wait for it."""
FINISH_SECONDS = 30.0
"""Longest wait at the end of a run, for all loggers together."""


class Loggers:
    """The loggers of a run. Leaving the context finishes them, and marks the run as failed after an exception."""

    def __init__(self, tracking: TrackingConfig, run: RunConfig, settings: Mapping[str, object]) -> None:
        """Create without starting. `settings` (from `public_settings`) is displayed as the run's configuration."""
        self._tracking = tracking
        self._run = run
        self._settings = settings
        self._processes: list[_LoggerProcess] = []

    def start(self, step: int) -> None:
        """Start the loggers for the steps after `step`; returns at once."""
        state = _LoggerState(self._run.folder / "tracking.json")
        name = self._tracking.experiment_name or self._run.name
        for backend in enabled_backends(self._tracking):
            run_id, logged = state.read(backend)
            setup = Setup(backend, self._tracking, name, self._run.folder, self._settings, run_id, step)
            # A resumed run may repeat steps. TensorBoard replaces them; wandb and SwanLab keep the first version of a
            # step, so they are not sent the steps that they already have.
            self._processes.append(_LoggerProcess(setup, state, step if backend == "tensorboard" else logged))

    def log(self, step: int, metrics: Mapping[str, float], rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Queue a step for every logger that does not have it yet; returns at once.

        `rows` (from `recorder.rollout_rows`) is consumed only if a table is due at this step.
        """
        processes = [process for process in self._processes if process.wants(step)]
        due = bool(processes) and self._is_table_due(step)
        table = table_rows(step, islice(rows, self._tracking.rollout_table_rows)) if due else []
        for process in processes:
            process.log(step, metrics, table)

    def catch_up(self) -> None:
        """Queue the most recent steps in the run folder that some logger lacks, for instance after a crash."""
        after = min((process.logged for process in self._processes), default=sys.maxsize)
        for step, metrics, rows in deque(recorded_steps(self._run.folder, after), CATCH_UP_STEPS):
            self.log(step, metrics, rows)

    def needs_rollouts(self, step: int, newest: int) -> bool:
        """Whether `catch_up` of a resumed run would read the rollouts of a step if this one ended after `newest`."""
        is_due = self._is_table_due(step) and step > newest - CATCH_UP_STEPS
        return is_due and any(process.lacks(step) for process in self._processes)

    def _is_table_due(self, step: int) -> bool:
        every = self._tracking.rollout_table_steps
        return every > 0 and step % every == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish all loggers, waiting at most FINISH_SECONDS."""
        deadline = time.monotonic() + FINISH_SECONDS
        # All are asked to finish before any is waited for, so that they upload concurrently.
        for process in self._processes:
            process.close(succeeded=kind is None)
        for process in self._processes:
            process.wait(deadline)


class _LoggerProcess:
    """One logger: its process, its queue, and a thread that moves steps from one to the other.

    Only that thread ever blocks on the process. It is a daemon, so a stuck logger cannot keep the run alive.
    """

    def __init__(self, setup: Setup, state: "_LoggerState", logged: int) -> None:
        """Start the process. The logger already has the steps up to `logged`."""
        self._setup = setup
        self._state = state
        self.logged = logged
        self._queue: SimpleQueue[tuple[int, Mapping[str, float], list[Row]] | None] = SimpleQueue()
        self._dropped = 0
        self._succeeded = True
        self._disabled = False
        self._output = setup.folder / "logs" / f"{setup.backend}.log"
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._calls, theirs = Pipe()
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "openr1.tracking.loggers.process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C must reach only the run, which then finishes its loggers.
                start_new_session=True,
                env=python_environment(),
            )
        # With our copy closed, the end of the process is an EOFError in `recv` instead of an endless wait.
        theirs.close()
        self._thread = Thread(target=self._work, name=f"logger-{setup.backend}", daemon=True)
        self._thread.start()

    def wants(self, step: int) -> bool:
        """Whether the logger is enabled and does not have the step yet."""
        return not self._disabled and step > self.logged

    def lacks(self, step: int) -> bool:
        """Whether a resumed run would send it the step. TensorBoard is only sent those that are made again."""
        backend = self._setup.backend
        return backend != "tensorboard" and step > self._state.last_step(backend)

    def log(self, step: int, metrics: Mapping[str, float], table: list[Row]) -> None:
        """Queue a step, or drop it if the queue is full."""
        # Not `Queue(maxsize)`: `close` must be able to add its None without blocking even if the queue is full.
        if self._queue.qsize() < QUEUE_SIZE:
            self._queue.put((step, metrics, table))
            return
        self._dropped += 1
        if self._dropped == 1:
            self._say(f"too slow: {QUEUE_SIZE} steps are queued; steps from {step} on are dropped until it catches up")

    def close(self, succeeded: bool) -> None:
        """Signal that no more steps follow; returns at once."""
        self._succeeded = succeeded
        self._queue.put(None)

    def wait(self, deadline: float) -> None:
        """Wait until the logger has finished, or kill it at `deadline` (`time.monotonic`)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            # Set before the kill, so that the thread does not report the end of the process as a crash.
            self._disabled = True
            self._say(f"not finished after {FINISH_SECONDS:g} s, killed; see {self._output}")
        # Harmless if it has ended; otherwise it would outlive the run. `wait` reaps it.
        self._process.kill()
        self._process.wait()
        if self._dropped:
            self._say(f"dropped {self._dropped} step(s) because it was too slow; metrics.jsonl has all steps")

    def _say(self, text: str) -> None:
        say(f"{self._setup.backend}: {text}")

    def _work(self) -> None:
        """Body of the thread: start the backend, send steps until `close`, finish."""
        try:
            self._calls.send(BACKENDS[self._setup.backend])
            self._say(self._call("start", self._setup, seconds=START_SECONDS))
            self._send_steps()
            self._call("finish", self._succeeded)
            self._process.wait()
        except _LoggerError as error:
            self._say(f"{error}; the run goes on without this logger")
        except (EOFError, OSError):
            if not self._disabled:
                self._say(f"its process ended, see {self._output}; the run goes on without this logger")
        finally:
            self._disabled = True
            self._process.kill()

    def _send_steps(self) -> None:
        """Send steps from the queue until `close`, tolerating scattered failures."""
        failures, warned = 0, False
        while (record := self._queue.get()) is not None:
            step = record[0]
            try:
                self._call("log", *record)
            except _LoggerError as error:
                failures += 1
                if failures == MAX_FAILURES:
                    raise _LoggerError(f"{failures} consecutive steps failed, the last with {error}") from error
                if not warned:
                    self._say(f"step {step} failed: {error}")
                warned = True
            else:
                failures = 0
                # Only after the answer: a step noted too early would never be sent again after a crash.
                self._state.write(self._setup.backend, step)

    def _call(self, method: str, *arguments: object, seconds: float | None = None) -> Any:
        """Call a method of the backend in its process and return the result; None waits without limit."""
        self._calls.send((method, arguments))
        if not self._calls.poll(seconds):
            raise _LoggerError(f"no answer in {seconds:g} s, see {self._output}")
        error, result = self._calls.recv()
        if error is not None:
            raise _LoggerError(error)
        return result


class _LoggerError(Exception):
    """A call to a logger failed or timed out; the message is one line."""


class _LoggerState:
    """tracking.json: the run id and last step of each logger, with which a resumed run continues."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._runs: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def read(self, backend: str) -> tuple[str, int]:
        """Run id and last step of a logger; creates an id if there is none."""
        run = self._runs.setdefault(backend, {"id": uuid.uuid4().hex[:21], "step": 0})
        self.write(backend, run["step"])
        return run["id"], run["step"]

    def last_step(self, backend: str) -> int:
        """The last step that a logger has taken."""
        return int(self._runs[backend]["step"])

    def write(self, backend: str, step: int) -> None:
        """Save the last step. Called by the threads of all loggers, which share the file."""
        # The file is rewritten as a whole, so two threads at once could lose each other's step.
        with self._lock:
            self._runs[backend]["step"] = step
            write_whole(self._path, json.dumps(self._runs, indent=2) + "\n")


def enabled_backends(tracking: TrackingConfig) -> list[str]:
    """The loggers that a run starts. `tracking.mode: disabled` affects all but TensorBoard, which is local."""
    return [name for name in tracking.backends if name == "tensorboard" or tracking.mode != "disabled"]


def check_tracking(tracking: TrackingConfig) -> None:
    """Check that the configured loggers are installed, and have an API key if they log online.

    Raises:
        ConfigError: One is not; the message says what to do.
    """
    for name in enabled_backends(tracking):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"tracking.backends: {name} is not installed; run `make setup`, or remove it")
        if name in KEYS and tracking.mode == "online" and not has_key(name):
            raise ConfigError(
                f"tracking.backends: no API key for {name}; set {KEYS[name]}, or run `{name} login`, or give "
                "--tracking.mode offline"
            )


def has_key(name: str) -> bool:
    """Whether the environment or a netrc file contains an API key for wandb or swanlab."""
    home = Path.home()
    if name == "wandb":
        host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
        files = [Path(os.environ.get("NETRC", home / ".netrc")), home / "_netrc"]
    else:
        # SwanLab's netrc files contain a single host, so any host counts.
        host = ""
        root = os.environ.get("SWANLAB_ROOT") or os.environ.get("SWANLAB_SAVE_DIR") or home / ".swanlab"
        files = [Path(".swanlab/.netrc"), Path(root) / ".netrc"]
    if os.environ.get(KEYS[name]):
        return True
    for file in filter(Path.is_file, files):
        try:
            known = netrc.netrc(file)
        except (netrc.NetrcParseError, OSError):
            continue
        if known.authenticators(host) if host else known.hosts:
            return True
    return False


def public_settings(config: BaseModel) -> dict[str, object]:
    """Flatten a configuration to dotted keys, and remove credentials from URLs so that they are not uploaded."""
    without: dict[str, object] = json.loads(re.sub(r"://[^/@\s\"]+@", "://", json.dumps(flatten(config))))
    return without
