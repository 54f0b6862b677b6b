"""The files of a run's responses: rollouts/step_NNNNNN.jsonl, or .jsonl.gz with `tracking.compress_rollouts`."""

from pathlib import Path

from openr1.runtime.files import step_paths

SUFFIXES = (".jsonl", ".jsonl.gz")
"""Plain and compressed; a run that was resumed with another setting has both."""


def rollout_path(run: Path, step: int, compressed: bool = False) -> Path:
    """Where a run keeps the responses of a step."""
    return run / "rollouts" / f"step_{step:06d}{SUFFIXES[compressed]}"


def rollout_files(run: Path) -> list[tuple[int, Path]]:
    """The files that a run has, by step."""
    return sorted(found for suffix in SUFFIXES for found in step_paths(run / "rollouts", suffix))


def find_rollouts(run: Path, step: int) -> Path | None:
    """The file of a step; None if the run has none, or does not keep it any more (`tracking.keep_rollouts`)."""
    paths = (rollout_path(run, step, compressed) for compressed in (False, True))
    return next((path for path in paths if path.exists()), None)
