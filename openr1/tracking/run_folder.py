"""A run's folder: never overwritten silently, one writer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from openr1.config.load import AnyConfig, flatten, to_yaml, validate
from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import write_whole


def check_unused(folder: Path, resume: bool) -> None:
    """Check, before anything is written, that the folder suits a new run or a resumed one.

    Raises:
        ConfigError: A new run would write into a folder that is used.
        MissingError: There is no run to resume.
    """
    used = (folder / "config.yaml").exists()
    if used and not resume:
        raise ConfigError(f"{folder}: already used by a run; continue it with --resume, or choose another --run.name")
    if resume and not used:
        raise MissingError(f"{folder}: no run to resume here; start it without --resume")


@contextmanager
def open_run_folder(folder: Path, config: AnyConfig, resume: bool) -> Iterator[None]:
    """Create or reopen the folder, for this process alone, and keep the resolved config in it.

    Raises:
        ConfigError: Another process is writing to it, or a resumed run's config differs from the one it started with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{folder}: another process is writing to this run; wait for it or choose another --run.name"
        ) from error
    try:
        kept = folder / "config.yaml"
        if resume:
            _check_same(kept, config)
        write_whole(kept, to_yaml(config))
        yield
    finally:
        lock.release()


MUTABLE_ON_RESUME = ("reward.url", "num_steps", "max_steps", "max_epochs", "data.max_pass_rate", "policy.num_ranks")
"""Keys that may change on resuming: where the reward server is, how long to train, which prompts are skipped, over how
many ranks."""
MUTABLE_PREFIXES = ("tracking.", "debug.record", "debug.replay")
"""Sections and keys that only observe the run, and may change, too."""


def _check_same(kept: Path, config: AnyConfig) -> None:
    """Refuse other values than the run began with, except of mutable keys; keys that are new since have defaults."""
    began = validate(type(config), yaml.safe_load(kept.read_text(encoding="utf-8")), str(kept))
    before, now = flatten(began), flatten(config)
    fixed = [key for key in sorted(before.keys() | now.keys()) if not _is_mutable(key)]
    different = [key for key in fixed if before.get(key) != now.get(key)]
    if different:
        raise ConfigError(f"{kept}: the run began with other values of {', '.join(different)}; resume with the same")


def _is_mutable(key: str) -> bool:
    return key in MUTABLE_ON_RESUME or key.startswith(MUTABLE_PREFIXES)
