"""data.json of a run folder: fingerprints of the datasets that the run began with."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from openr1.data.fingerprint import Fingerprint
from openr1.errors import ConfigError
from openr1.runtime.files import write_whole

DATA_FILE = "data.json"


def check_data(folder: Path, data: Mapping[str, Fingerprint]) -> None:
    """Check that a run that is resumed has the rows that it began with; `data` is by the dataset's path.

    Passes if the folder has no record: the run is new, or older than these.

    Raises:
        ConfigError: A dataset has other rows, or they are in another order.
    """
    path = folder / DATA_FILE
    if not path.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    for name, now in data.items():
        began = Fingerprint(**before[name]) if name in before else now
        if began != now:
            raise ConfigError(
                f"{name}: not the rows that the run in {folder} began with ({began.rows} then, {now.rows} now, "
                f"sha256 {began.sha256[:8]} and {now.sha256[:8]}); give them as they were, or start a new run"
            )


def record_data(folder: Path, data: Mapping[str, Fingerprint]) -> None:
    """Write the record."""
    write_whole(folder / DATA_FILE, json.dumps({name: asdict(one) for name, one in data.items()}, indent=2) + "\n")
