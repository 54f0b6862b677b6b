"""A run's folder: never overwritten silently, one writer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from openr1.errors import ConfigError, MissingError


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
def opened(folder: Path, config_yaml: str, resume: bool) -> Iterator[None]:
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
            _check_same(kept, config_yaml)
        kept.write_text(config_yaml, encoding="utf-8")
        yield
    finally:
        lock.release()


def _check_same(kept: Path, config_yaml: str) -> None:
    """A resumed run must go on as it began; only where the reward server is and how long to train may change."""
    before, now = yaml.safe_load(kept.read_text(encoding="utf-8")), yaml.safe_load(config_yaml)
    for config in (before, now):
        config["reward"].pop("url")
        config.pop("num_steps")
    if before != now:
        different = sorted(
            f"{section}.{key}"
            for section in now
            for key in now[section]
            if before.get(section, {}).get(key) != now[section][key]
        )
        raise ConfigError(f"{kept}: the run began with other values of {', '.join(different)}; resume with the same")
