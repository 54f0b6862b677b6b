"""Run commands of this project and keep their output, for benchmarks and experiments."""

import subprocess
import time
from pathlib import Path

from benchmarks.machine import ROOT
from openr1.errors import OpenR1Error

ERROR_LINES = 15
"""Last lines of a failed command's log that go into the error message."""


def run_command(log: Path, *words: str) -> float:
    """Run a command from the root of the repository, append its output to `log`, and return its wall time in seconds.

    Raises:
        OpenR1Error: The command failed; the message ends with the last lines of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("a") as file:
        done = subprocess.run(words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        end = "\n".join(log.read_text().splitlines()[-ERROR_LINES:])
        raise OpenR1Error(f"`{' '.join(words)}` ended with exit code {done.returncode}; {log} ends with\n{end}")
    return time.monotonic() - start
