"""A real disk that is soon full: a tmpfs of a few megabytes in a mount namespace of its own. Needs root.

It is reached through /proc/<process>/root of the process that made it, and gone with it, also if the tests are killed.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && echo mounted && exec cat'
"""`cat` ends when the tests end, whose end of the pipe it reads."""


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A folder on a disk of this size for the block; the test is skipped where it cannot be had, unless it must be."""
    folder.mkdir()
    command = ["unshare", "-m", "sh", "-c", MOUNT, "sh", str(num_bytes), str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            if process.stdout.readline() != "mounted\n":
                reason = f"no disk of its own: {process.stderr.read().strip()}"
                # Where namespaces are required, they are for this, too.
                assert "OPENR1_REQUIRE_TWO_NODES" not in os.environ, reason
                pytest.skip(reason)
            yield Path(f"/proc/{process.pid}/root{folder}")
        finally:
            process.kill()


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """Write a file that leaves this much room, give or take a page; returns it."""
    path = folder / "filling"
    path.write_bytes(bytes(max(0, shutil.disk_usage(folder).free - leave_bytes)))
    return path
