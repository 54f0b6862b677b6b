"""A run's folder: never overwritten silently, one writer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from openr1.config.load import AnyConfig, to_yaml, validate
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
def opened(folder: Path, config: AnyConfig, resume: bool) -> Iterator[None]:
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


FREE = ("reward.url", "num_steps", "max_steps", "max_epochs", "data.max_pass_rate", "policy.num_ranks")
"""What may change on resuming, beside `WATCHING`: where the reward server is, how long to train, which prompts are
passed over, over how many ranks."""
WATCHING = ("tracking.", "debug.record", "debug.replay")


def _flatten(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys of a resolved config."""
    flat: dict[str, Any] = {}
    for section, values in config.items():
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
        else:
            flat[section] = values
    return flat


def _check_same(kept: Path, config: AnyConfig) -> None:
    """A resumed run must go on as it began, but for `FREE`; keys that were not there then have their defaults."""
    began = validate(type(config), yaml.safe_load(kept.read_text(encoding="utf-8")), str(kept))
    before, now = _flatten(began.model_dump()), _flatten(config.model_dump())
    fixed = [key for key in sorted(before.keys() | now.keys()) if key not in FREE and not key.startswith(WATCHING)]
    different = [key for key in fixed if before.get(key) != now.get(key)]
    if different:
        raise ConfigError(f"{kept}: the run began with other values of {', '.join(different)}; resume with the same")
