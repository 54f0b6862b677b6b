"""Memory of a tree of processes by role, sampled from outside: what the processes of a run take at its peak."""

import threading
from collections import Counter
from contextlib import suppress

import psutil

SECONDS_PER_SAMPLE = 0.5
ACTORS = {
    "EngineActor": "engine",
    "TrainWorker": "policy",
    "ReferenceWorker": "reference",
    # Their names at the baseline.
    "PolicyActor": "policy",
    "ReferenceActor": "reference",
}
RAY_PROGRAMS = ("gcs_server", "raylet", "ray::", "ray/", "ray/_private")


def processes(root: psutil.Process) -> list[psutil.Process]:
    """A process and all of its descendants."""
    with suppress(psutil.NoSuchProcess):
        return [root, *root.children(recursive=True)]
    return []


def role(command: list[str]) -> str:
    """What a process of a run does, by its command line: an actor's name, reward server, Ray, or other."""
    text = " ".join(command)
    for actor, name in ACTORS.items():
        if f"ray::{actor}" in text:
            return name
    if "serve" in command:
        return "reward server"
    return "Ray" if any(program in text for program in RAY_PROGRAMS) else "other"


def memory_by_role(root: psutil.Process) -> Counter[str]:
    """Bytes by role; shared memory counts once, in equal shares (PSS). The root is the driver.

    What a process of no known role starts, and workers of the reward server, count for their parent's role.
    """
    found: Counter[str] = Counter()
    roles: dict[int, str] = {root.pid: "driver"}
    for process in processes(root):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid not in roles:
                own = role(process.cmdline())
                roles[process.pid] = roles.get(process.ppid(), own) if own == "other" else own
            found[roles[process.pid]] += process.memory_full_info().pss
    return found


class PeakMemory:
    """For the block, watches a process and its descendants.

    Attributes:
        peak: Bytes by role at the moment at which their sum was largest.
    """

    def __init__(self, pid: int) -> None:
        """Watch the process with this number."""
        self.peak: Counter[str] = Counter()
        self._root = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SECONDS_PER_SAMPLE):
            now = memory_by_role(self._root)
            if now.total() > self.peak.total():
                self.peak = now
