"""Runs one program of a policy in a process of its own, within limits and without a network (`launch`)."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reward_server.environment import harmless_environment

CPU_SECONDS = 4
WALL_SECONDS = 10.0
MEMORY_BYTES = 1 * 2**30
FOLDER_BYTES = 16 * 2**20
"""Everything that a program writes: into files, and to its output."""
OUTPUT_BYTES = 1 * 2**20
PROCESSES = 32
_LAUNCH_SECONDS = 30.0
"""Time for the launcher to start and to answer, on a busy machine, beside that of the program."""
_LIMITS = {
    "RLIMIT_CPU": CPU_SECONDS,
    "RLIMIT_AS": MEMORY_BYTES,
    "RLIMIT_FSIZE": FOLDER_BYTES,
    "RLIMIT_NPROC": PROCESSES,
    "RLIMIT_NOFILE": 64,
    "RLIMIT_CORE": 0,
}


class NotIsolated(Exception):
    """This machine does not allow a program to be isolated, so it was not run. The message says what was refused."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    exit: int
    """Exit code; 128 + the signal's number if a signal ended it."""
    stdout: str
    """The first `OUTPUT_BYTES` of its output."""
    stderr: str
    timed_out: bool
    """Whether it was stopped after `WALL_SECONDS`."""
    done: bool
    """Whether it created the file `done` in its folder."""

    @property
    def problem(self) -> str | None:
        """Why it did not end well, in one line; None if it did."""
        if self.timed_out:
            return f"it was stopped after {WALL_SECONDS:g} s"
        if self.exit == 0:
            return None
        last = self.stderr.strip().rpartition("\n")[2]
        return f"exit code {self.exit}: {last}" if last else f"exit code {self.exit}"


def run_program(program: str, given: str = "") -> Ended:
    """Run a Python program.

    Args:
        program: Its text.
        given: Its standard input.

    Raises:
        NotIsolated: Namespaces are not allowed here.
        RuntimeError: The launcher failed.
    """
    order = {
        "program": program,
        "input": given,
        "limits": _LIMITS,
        "wall_seconds": WALL_SECONDS,
        "folder_bytes": FOLDER_BYTES,
        "output_bytes": OUTPUT_BYTES,
    }
    launcher = Path(__file__).with_name("launch.py")
    # The launcher covers the folder with one in memory, which only it and the program see.
    with tempfile.TemporaryDirectory(prefix="openr1_program_") as folder:
        # A list of arguments, never a shell; the program itself travels through the pipe.
        done = subprocess.run(
            [sys.executable, "-I", str(launcher)],
            input=json.dumps(order | {"folder": folder}).encode(),
            env=harmless_environment(),
            capture_output=True,
            timeout=WALL_SECONDS + _LAUNCH_SECONDS,
            start_new_session=True,
            check=False,
        )
    if done.returncode != 0 or not done.stdout:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"the launcher ended with code {done.returncode}: {last}")
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise NotIsolated(answer["refused"])
    return Ended(**answer)
