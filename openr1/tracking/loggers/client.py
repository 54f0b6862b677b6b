"""Loggers beside the run folder's own records: wandb, SwanLab, TensorBoard. A step never waits for one.

Each has a process of its own, fed by a thread from a bounded queue. One that is slow loses steps, one that fails is
turned off, one that does not end is killed; each of these is said in one line, and the run goes on.
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
"""Steps that may wait for a tracker; further ones are dropped."""
MAX_FAILURES = 5
"""Failures one after another that turn a tracker off."""
START_SECONDS = 60.0
"""Time that a tracker has to start; no step waits for it."""
FINISH_SECONDS = 30.0
"""Longest wait at the end, for all trackers together."""


class Loggers:
    """The trackers of a run. Leaving its context finishes them, as failed after an error."""

    def __init__(self, tracking: TrackingConfig, run: RunConfig, settings: Mapping[str, object]) -> None:
        """Nothing is started yet. `settings` (`public_settings`) is shown as the run's configuration."""
        self._tracking = tracking
        self._run = run
        self._settings = settings
        self._processes: list[_LoggerProcess] = []

    def start(self, step: int) -> None:
        """Start them, for the steps after `step`; returns at once."""
        notes = _Notes(self._run.folder / "tracking.json")
        name = self._tracking.experiment_name or self._run.name
        for backend in enabled_backends(self._tracking):
            run_id, logged = notes.read(backend)
            setup = Setup(backend, self._tracking, name, self._run.folder, self._settings, run_id, step)
            # TensorBoard forgets a step that is made again; in the others the first one stays.
            self._processes.append(_LoggerProcess(setup, notes, step if backend == "tensorboard" else logged))

    def log(self, step: int, metrics: Mapping[str, float], rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Hand a step over to those that do not have it; returns at once.

        `rows` (`tracking.rollout_rows`) are read where a table is due.
        """
        processes = [process for process in self._processes if process.wants(step)]
        every = self._tracking.rollout_table_steps
        due = bool(processes) and every > 0 and step % every == 0
        table = table_rows(step, islice(rows, self._tracking.rollout_table_rows)) if due else []
        for process in processes:
            process.log(step, metrics, table)

    def catch_up(self) -> None:
        """Hand over the newest steps of the run folder that not every tracker has; room is left for those to come."""
        after = min((process.logged for process in self._processes), default=sys.maxsize)
        for step, metrics, rows in deque(recorded_steps(self._run.folder, after), QUEUE_SIZE // 2):
            self.log(step, metrics, rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let them send what is left, for FINISH_SECONDS at most."""
        deadline = time.monotonic() + FINISH_SECONDS
        for process in self._processes:
            process.close(succeeded=kind is None)
        for process in self._processes:
            process.wait(deadline)


class _LoggerProcess:
    """One tracker: its process, its queue, and the thread between them, which alone ever waits."""

    def __init__(self, setup: Setup, notes: "_Notes", logged: int) -> None:
        """Start; the tracker has the steps up to `logged`."""
        self._setup = setup
        self._notes = notes
        self.logged = logged
        self._queue: SimpleQueue[tuple[int, Mapping[str, float], list[Row]] | None] = SimpleQueue()
        self._dropped = 0
        self._succeeded = True
        self._off = False
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
                # Ctrl-C is for the run, which then finishes its trackers.
                start_new_session=True,
                env=python_environment(),
            )
        theirs.close()
        self._thread = Thread(target=self._work, name=f"tracker-{setup.backend}", daemon=True)
        self._thread.start()

    def wants(self, step: int) -> bool:
        """Whether the tracker is there, and does not have the step from before."""
        return not self._off and step > self.logged

    def log(self, step: int, metrics: Mapping[str, float], table: list[Row]) -> None:
        """Queue a step, or drop it."""
        if self._queue.qsize() < QUEUE_SIZE:
            self._queue.put((step, metrics, table))
            return
        self._dropped += 1
        if self._dropped == 1:
            self._say(f"{QUEUE_SIZE} steps wait for it; from step {step} on it misses some, until it catches up")

    def close(self, succeeded: bool) -> None:
        """Nothing more will come."""
        self._succeeded = succeeded
        self._queue.put(None)

    def wait(self, deadline: float) -> None:
        """Wait for the end until `deadline`, of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._off = True
            self._say(f"not finished after {FINISH_SECONDS:g} s, and ended; see {self._output}")
        self._process.kill()
        self._process.wait()
        if self._dropped:
            self._say(f"it missed {self._dropped} step(s) because it was slow; metrics.jsonl has them")

    def _say(self, text: str) -> None:
        say(f"{self._setup.backend}: {text}")

    def _work(self) -> None:
        try:
            self._calls.send(BACKENDS[self._setup.backend])
            self._say(self._ask("start", self._setup, seconds=START_SECONDS))
            self._feed()
            self._ask("finish", self._succeeded)
            self._process.wait()
        except _Failed as error:
            self._say(f"{error}; the run goes on without it")
        except (EOFError, OSError):
            if not self._off:
                self._say(f"its process ended, see {self._output}; the run goes on without it")
        finally:
            self._off = True
            self._process.kill()

    def _feed(self) -> None:
        """Hand over step after step."""
        failures, warned = 0, False
        while (record := self._queue.get()) is not None:
            step = record[0]
            try:
                self._ask("log", *record)
            except _Failed as error:
                failures += 1
                if failures == MAX_FAILURES:
                    raise _Failed(f"{failures} steps failed one after another, the last with {error}") from error
                if not warned:
                    self._say(f"step {step} failed: {error}")
                warned = True
            else:
                failures = 0
                self._notes.write(self._setup.backend, step)

    def _ask(self, method: str, *arguments: object, seconds: float | None = None) -> Any:
        """What the tracker answers, after any time where no limit is given."""
        self._calls.send((method, arguments))
        if not self._calls.poll(seconds):
            raise _Failed(f"no answer in {seconds:g} s, see {self._output}")
        error, result = self._calls.recv()
        if error is not None:
            raise _Failed(error)
        return result


class _Failed(Exception):
    """A tracker did not do what it was asked; the message is one line."""


class _Notes:
    """tracking.json: of each tracker the id of its run and the last step that it has, for a resumed run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._runs: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def read(self, backend: str) -> tuple[str, int]:
        """Id and last step; a new id where there is none."""
        run = self._runs.setdefault(backend, {"id": uuid.uuid4().hex[:21], "step": 0})
        self.write(backend, run["step"])
        return run["id"], run["step"]

    def write(self, backend: str, step: int) -> None:
        """Keep the last step; called by all threads."""
        with self._lock:
            self._runs[backend]["step"] = step
            write_whole(self._path, json.dumps(self._runs, indent=2) + "\n")


def enabled_backends(tracking: TrackingConfig) -> list[str]:
    """The trackers that a run starts."""
    return [name for name in tracking.backends if name == "tensorboard" or tracking.mode != "disabled"]


def check_tracking(tracking: TrackingConfig) -> None:
    """Check, before anything starts, that the trackers are installed, and that those online have a key.

    Raises:
        ConfigError: With what to do.
    """
    for name in enabled_backends(tracking):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"tracking.backends: {name} is not installed; run `make setup`, or leave it out")
        if name in KEYS and tracking.mode == "online" and not has_key(name):
            raise ConfigError(
                f"tracking.backends: no API key for {name}; set {KEYS[name]}, or run `{name} login`, or give "
                "--tracking.mode offline"
            )


def has_key(name: str) -> bool:
    """Whether the environment or a netrc file has an API key for wandb or swanlab."""
    home = Path.home()
    if name == "wandb":
        host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
        files = [Path(os.environ.get("NETRC", home / ".netrc")), home / "_netrc"]
    else:
        # SwanLab's own files name one host, whatever it is called.
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
    """Dotted keys of a configuration, without the passwords that addresses may contain."""
    without: dict[str, object] = json.loads(re.sub(r"://[^/@\s\"]+@", "://", json.dumps(flatten(config))))
    return without
