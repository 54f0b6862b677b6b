"""Room on the disks that a run writes to."""

import shutil
import sys
from pathlib import Path

GIB = 2**30


def free_bytes(folder: Path) -> int:
    """What this user can still write into a folder, which need not exist yet.

    A file system without a size, such as /proc, has no limit here: it refuses with a reason of its own.
    """
    there = next(one for one in (folder, *folder.parents) if one.exists())
    usage = shutil.disk_usage(there)
    return usage.free if usage.total else sys.maxsize


def used_bytes(folder: Path) -> int:
    """Size of all files in a folder and its subfolders; 0 if it does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def in_gib(num_bytes: int) -> str:
    """As people read it: `1.25 GiB`, `0.004 GiB`."""
    return f"{num_bytes / GIB:.{2 if num_bytes >= GIB / 10 else 4}f} GiB"
