"""The folder of a run: never overwritten silently, and written by one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from openr1.config.load import AnyConfig, flatten, to_yaml, validate
from openr1.errors import ConfigError, MissingError
from openr1.runtime.files import write_whole


def check_unused(folder: Path, resume: bool) -> None:
    """Check that the folder is unused if the run is new, and used if it is resumed. Nothing is written.

    Raises:
        ConfigError: The run is new, but another run has used the folder.
        MissingError: There is no run to resume.
    """
    used = (folder / "config.yaml").exists()
    if used and not resume:
        raise ConfigError(f"{folder}: already used by a run; continue it with --resume, or choose another --run.name")
    if resume and not used:
        raise MissingError(f"{folder}: no run to resume here; start it without --resume")


@contextmanager
def open_run_folder(folder: Path, config: AnyConfig, resume: bool) -> Iterator[None]:
    """Create or reopen the folder, lock it for the block, and save the resolved config in it.

    Raises:
        ConfigError: Another process holds the lock, or the config of a resumed run differs from the one it started
            with.
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
        config_path = folder / "config.yaml"
        if resume:
            _check_same(config_path, config)
        write_whole(config_path, to_yaml(config))
        yield
    finally:
        lock.release()


MUTABLE_ON_RESUME = (
    *("reward.url", "num_steps", "max_steps", "max_epochs", "data.max_pass_rate", "policy.num_ranks"),
    *("rollout.num_engines", "rollout.tensor_parallel_size", "rollout.kv_cache_gib", "rollout.gpu_memory_utilization"),
)
"""Keys that may change when a run is resumed: address of the reward server, length of training, skipping of solved
prompts, and how the machine is used."""
MUTABLE_PREFIXES = ("tracking.", "debug.record", "debug.replay", "placement.", "cluster.", "weight_sync.")
"""Sections and keys that only observe the run or say where it runs; these may change, too."""


def _check_same(config_path: Path, config: AnyConfig) -> None:
    """Refuse changed values, except of mutable keys. Keys that did not exist at the start of the run get defaults."""
    began = validate(type(config), yaml.safe_load(config_path.read_text(encoding="utf-8")), str(config_path))
    before, now = flatten(began), flatten(config)
    fixed = [key for key in sorted(before.keys() | now.keys()) if not _is_mutable(key)]
    different = [key for key in fixed if before.get(key) != now.get(key)]
    if different:
        raise ConfigError(
            f"{config_path}: the run started with other values of {', '.join(different)}; resume with the same values"
        )


def _is_mutable(key: str) -> bool:
    return key in MUTABLE_ON_RESUME or key.startswith(MUTABLE_PREFIXES)
