#!/usr/bin/env bash
# object_store_memory is no limit, not even with spilling turned off: what is more goes to files without a name (Ray 2.60.0).
#
# Guess before the run: with a store of 80 MiB and automatic_object_spilling_enabled false, the second object of 60 MiB
# that is still referenced raises ObjectStoreFullError.
# Seen: four of them are stored and read back. Ray maps each of the last three into a file in its session's folder and
# unlinks the file at once: the disk fills, and neither ls nor du shows by what; only `ray.put` beyond
# local_fs_capacity_threshold (95 % of the disk) raises, and then OutOfDiskError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ray==2.60.0 psutil
cat > "$folder/store.py" <<'PYTHON'
import logging
import sys
from pathlib import Path

import psutil
import ray

MIB = 2**20
ray.init(
    address="local",
    num_cpus=1,
    object_store_memory=80 * MIB,
    include_dashboard=False,
    log_to_driver=False,
    logging_level=logging.ERROR,
    _temp_dir=sys.argv[1],
    _system_config={"automatic_object_spilling_enabled": False},
)
kept = [ray.put(b"x" * 60 * MIB) for _ in range(4)]
assert [len(ray.get(one)) for one in kept] == [60 * MIB] * 4
(raylet,) = [child for child in psutil.Process().children(recursive=True) if child.name() == "raylet"]
mapped = {line.split(None, 5)[5].strip() for line in Path(f"/proc/{raylet.pid}/maps").read_text().splitlines() if "plasma" in line}
unnamed = [name for name in mapped if name.startswith(sys.argv[1]) and name.endswith("(deleted)")]
named = [path for path in Path(sys.argv[1]).rglob("*plasma*") if path.is_file() and path.stat().st_size > MIB]
print(f"Ray {ray.__version__}: 240 MiB in a store of 80 MiB; {len(unnamed)} unlinked files, {len(named)} with a name")
assert (len(unnamed), len(named)) == (3, 0), mapped
PYTHON
mkdir "$folder/r"
RAY_AUTH_MODE=disabled "$folder/venv/bin/python" "$folder/store.py" "$folder/r"
