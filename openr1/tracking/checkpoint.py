"""Checkpoints: written aside, published by rename, pruned after; the newest complete one is what resuming reads.

checkpoints/step_NNNNNN/ holds `trainer.json` (step, weight version, place in the data), `policy/` (DeepSpeed: weights,
optimizer, schedule), `model/` (Hugging Face format), what else the run adds, and `checksums.json` of it all. `latest`
names the newest, `best` the best by accuracy.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from openr1.errors import MissingError
from openr1.runtime.console import say
from openr1.runtime.files import write_whole
from openr1.types import TrainerState

WriteFolder = Callable[[Path], None]
CHECKSUMS = "checksums.json"


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        """`folder` is the run's checkpoints folder; at most `keep` of the newest stay."""
        self._folder = folder
        self._keep = keep
        self._best = folder / "best"

    def save(self, state: TrainerState, write_contents: WriteFolder) -> Path:
        """Write a checkpoint; it is visible under its name only when complete.

        `write_contents` gets a folder to write everything but `trainer.json` into.
        """
        final = self._folder / f"step_{state.step:06d}"
        aside = self._folder / f"tmp_step_{state.step:06d}"
        for leftover in self._folder.glob("tmp_*"):
            shutil.rmtree(leftover)
        aside.mkdir(parents=True)
        write_contents(aside)
        (aside / "trainer.json").write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        publish(aside, final)
        # Damaged ones, or the run would have gone on from them; they must not count as the newest.
        complete = self.complete()
        for later in complete[complete.index(final) + 1 :]:
            damaged = later.with_name(f"damaged_{later.name}")
            _remove(damaged)
            later.rename(damaged)
        write_whole(self._folder / "latest", final.name + "\n")
        _flush_folder(self._folder)
        self._prune()
        return final

    def mark_best(self, step: int) -> None:
        """Keep this step's checkpoint, whatever comes after, in place of the one that was best before."""
        write_whole(self._best, f"step_{step:06d}\n")
        self._prune()

    def best(self) -> int | None:
        """Step of the checkpoint that was marked last; None if there is none, or it is gone."""
        marked = self._best.read_text(encoding="utf-8").strip() if self._best.exists() else ""
        there = (self._folder / marked / "trainer.json").is_file()
        return int(marked.removeprefix("step_")) if marked and there else None

    def _prune(self) -> None:
        """Remove all but the newest and the best."""
        best = self.best()
        for old in self.complete()[: -self._keep]:
            if best is None or old.name != f"step_{best:06d}":
                _remove(old)

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = [path for path in self._folder.glob("step_*") if (path / "trainer.json").is_file()]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))

    def newest(self) -> tuple[Path, TrainerState] | None:
        """The newest checkpoint that is complete and as it was saved; None where none was saved.

        Raises:
            MissingError: There are some, and all are damaged.
        """
        complete = self.complete()
        for folder in reversed(complete):
            damaged = find_damage(folder)
            if damaged is None:
                values = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
                return folder, TrainerState.from_json(values)
            say(f"warning: {folder} is passed over: {damaged} is not as it was saved")
        if complete:
            raise MissingError(f"{self._folder}: all {len(complete)} checkpoints are damaged; begin anew")
        return None


def publish(aside: Path, final: Path) -> None:
    """Give a folder that is written its checksums and its name; what had the name before is gone."""
    (aside / CHECKSUMS).write_text(json.dumps(_checksums(aside), indent=2) + "\n", encoding="utf-8")
    _flush(aside)
    _remove(final)
    aside.rename(final)


def _remove(folder: Path) -> None:
    """Remove a folder if it is there; a crash on the way must not leave half of it under its name."""
    if folder.exists():
        doomed = folder.with_name(f"tmp_old_{folder.name}")
        folder.rename(doomed)
        shutil.rmtree(doomed)


def find_damage(checkpoint: Path) -> str | None:
    """The first file, but for `model/`, that is missing or not as it was saved; None if there is none.

    Resuming does not read the exported model, which may have been moved away.
    """
    path = checkpoint / CHECKSUMS
    if not path.is_file():
        return CHECKSUMS
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return CHECKSUMS
    now = _checksums(checkpoint)
    return next(
        (name for name in sorted(saved) if now.get(name) != saved[name] and not name.startswith("model/")), None
    )


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below the folder, by its path from there."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / CHECKSUMS:
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _flush(folder: Path) -> None:
    """Have the system write every file below the folder to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
