"""The folder of a run: never overwritten silently, and written by one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from openr1.config.load import AnyConfig, flatten, to_yaml, validate
from openr1.errors import ConfigError, MissingError
from openr1.runtime.console import say
from openr1.runtime.files import step_paths, write_whole
from openr1.tracking.data_record import DATA_FILE
from openr1.tracking.eval_results import eval_path
from reward_server.strict_yaml import load_yaml


def check_unused(folder: Path, resume: bool) -> None:
    """Check that a new run would overwrite no step, and that there is a run to resume. Nothing is written.

    Raises:
        ConfigError: The run is new, but another run has made steps in the folder; or a process is writing to it.
        MissingError: There is no run to resume.
    """
    if not resume and has_steps(folder):
        raise ConfigError(f"{folder}: already used by a run; continue it with --resume, or choose another --run.name")
    if resume and not (folder / "config.yaml").exists():
        raise MissingError(f"{folder}: no run to resume here; start it without --resume")
    if (folder / ".lock").exists():
        _acquire(folder).release()


def has_steps(folder: Path) -> bool:
    """Whether a run has made a step in the folder; one that failed before, or was stopped, leaves nothing to keep."""
    metrics = folder / "metrics.jsonl"
    is_recorded = metrics.exists() and metrics.stat().st_size > 0
    return is_recorded or (folder / "model").exists() or bool(step_paths(folder / "checkpoints"))


@contextmanager
def open_run_folder(folder: Path, config: AnyConfig, resume: bool) -> Iterator[None]:
    """Create or reopen the folder, lock it for the block, and save the resolved config in it.

    Raises:
        ConfigError: Another process holds the lock, or the config of a resumed run differs from the one it started
            with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquire(folder)
    try:
        config_path = folder / "config.yaml"
        if resume:
            _check_same(config_path, config)
        else:
            _forget_start(folder)
        write_whole(config_path, to_yaml(config))
        yield
    finally:
        lock.release()


def _acquire(folder: Path) -> BaseFileLock:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{folder}: another process is writing to this run; wait for it or choose another --run.name"
        ) from error
    return lock


MUTABLE_ON_RESUME = (
    *("num_steps", "max_steps", "max_epochs", "run.output_dir", "evaluation.eval_steps", "eval_steps"),
    *("data.min_pass_rate", "data.max_pass_rate", "data.target_pass_rate"),
    *("reward.url", "reward.deadline_seconds", "reward.ready_timeout_seconds"),
    *("policy.num_ranks", "policy.micro_batch_tokens", "policy.threads", "policy.timeout_seconds"),
    *("model.gradient_checkpointing", "model.packing", "model.attention"),
    *("rollout.num_engines", "rollout.tensor_parallel_size", "rollout.kv_cache_gib", "rollout.gpu_memory_utilization"),
    *("rollout.max_num_seqs", "rollout.threads", "rollout.timeout_seconds", "rollout.verify_steps"),
    "rollout.max_restarts",
)
"""Keys that may change when a run is resumed: where things are, the length of training, when to evaluate, skipping of
prompts by difficulty, deadlines, and what makes a run fit on the machine or fast on it. They change results by rounding
at most; those of the data change which prompts are asked."""
MUTABLE_PREFIXES = (
    "tracking.",
    "checkpoint.",
    "debug.record",
    "debug.replay",
    "placement.",
    "cluster.",
    "weight_sync.",
)
"""Sections and keys that only observe the run or say where it runs; these may change, too."""


def _forget_start(folder: Path) -> None:
    """Remove what a run that made no step has left, and a new one would take for its own."""
    if not (folder / "config.yaml").exists():
        return
    say(f"{folder}: a run was started here and made no step; this one takes its place")
    for path in (folder / DATA_FILE, folder / "tracking.json", folder / "reference_log_probs.jsonl"):
        path.unlink(missing_ok=True)
    eval_path(folder, 0).unlink(missing_ok=True)


def _check_same(config_path: Path, config: AnyConfig) -> None:
    """Refuse changed values, except of mutable keys, which are named. Keys that the run did not know get defaults."""
    began = validate(type(config), load_yaml(config_path.read_text(encoding="utf-8")), str(config_path))
    before, now = flatten(began), flatten(config)
    different = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    fixed = [key for key in different if not _is_mutable(key)]
    if fixed:
        raise ConfigError(
            f"{config_path}: the run started with other values of {', '.join(fixed)}; resume with the same values"
        )
    for key in different:
        say(f"resuming with {key} {now.get(key)} instead of {before.get(key)}")


def _is_mutable(key: str) -> bool:
    return key in MUTABLE_ON_RESUME or key.startswith(MUTABLE_PREFIXES)
