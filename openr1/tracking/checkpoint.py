"""Crash-safe checkpoints: written to a temporary folder, published by an atomic rename, verified by checksums.

A checkpoint is begun while training stands still, and copied to memory; its files, checksums and rename follow in the
background.

checkpoints/step_NNNNNN/ contains `trainer.json` (step, weight version, position in the data), `policy/` (DeepSpeed:
weights, optimizer state, schedule), `model/` (Hugging Face format), whatever else the run adds, and `checksums.json` of
all files. The file `latest` names the newest checkpoint, `best` the one with the best accuracy. Resuming reads the
newest checkpoint that is complete and undamaged.
"""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from openr1.errors import MissingError, StageTimeout, TrainingError
from openr1.runtime.console import say
from openr1.runtime.files import write_whole
from openr1.runtime.interrupts import POLL_SECONDS, Interrupted
from openr1.types import TrainerState

WriteFolder = Callable[[Path], None]
CHECKSUMS = "checksums.json"
CLOSE_SECONDS = 30.0
"""How long a run that ends with an error still waits for a checkpoint that is being written."""


class Checkpoints:
    """The checkpoints of one run, of which at most one is being written in the background (`check`, `finish`)."""

    def __init__(self, folder: Path, keep: int, timeout_seconds: float) -> None:
        """Manage `folder`, keeping the newest `keep` checkpoints, and the best one.

        `timeout_seconds` is the deadline for one to be written (`policy.timeout_seconds`).
        """
        self._folder = folder
        self._keep = keep
        self._timeout_seconds = timeout_seconds
        self._best = folder / "best"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._closed = threading.Event()
        self._pending: Future[None] | None = None

    def save(self, state: TrainerState, write_contents: WriteFolder, is_written: Callable[[], bool]) -> None:
        """Begin a checkpoint. It appears under its final name only once it is complete and on disk.

        Waits for the one before it.

        Args:
            state: Written as `trainer.json`.
            write_contents: Called with the folder for everything else. Returns once training can change what it saves.
            is_written: Whether all of that is in the folder; raises if it cannot be. Called on a thread.

        Raises:
            TrainingError: The checkpoint before it could not be written, or not within the deadline.
        """
        self.finish()
        final = self._folder / f"step_{state.step:06d}"
        staging = self._folder / f"tmp_step_{state.step:06d}"
        # Left behind by a process that was killed while it saved, converted or removed a checkpoint.
        for leftover in self._folder.glob("tmp_*"):
            shutil.rmtree(leftover)
        staging.mkdir(parents=True)
        write_contents(staging)
        (staging / "trainer.json").write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        self._pending = self._thread.submit(self._publish, staging, final, is_written)

    def check(self) -> None:
        """Raise what has gone wrong in the background; does not wait."""
        pending = self._pending
        if pending is None or not pending.done():
            return
        self._pending = None
        try:
            pending.result()
        except OSError as error:
            raise TrainingError(f"{self._folder}: a checkpoint could not be written: {error}") from error

    def finish(self) -> None:
        """Wait until what is being written is published, and raise what has gone wrong.

        Raises:
            TrainingError: It could not be written.
            StageTimeout: It was not written within the deadline.
        """
        if self._pending is not None and not wait([self._pending], self._timeout_seconds).done:
            raise late(f"the checkpoint that is being written in {self._folder}", self._timeout_seconds)
        self.check()

    def close(self) -> None:
        """At the end of a run, also one that failed: a last chance for what is still being written."""
        if self._pending is not None:
            wait([self._pending], CLOSE_SECONDS)
        self._closed.set()

    def _publish(self, staging: Path, final: Path, is_written: Callable[[], bool]) -> None:
        """On the thread: wait until all ranks have written, then make the checkpoint the newest."""
        wait_until_written(str(staging), is_written, self._timeout_seconds, self._closed)
        publish(staging, final)
        # Later checkpoints must be damaged ones, which resuming skipped. Set aside, they cannot count as the newest.
        complete = self.complete()
        for later in complete[complete.index(final) + 1 :]:
            damaged = later.with_name(f"damaged_{later.name}")
            _remove(damaged)
            later.rename(damaged)
        # After the folder itself, so that `latest` never names a checkpoint that is not there.
        write_whole(self._folder / "latest", final.name + "\n")
        _flush_folder(self._folder)
        # Last: an older checkpoint may go only once the new one is safely on disk.
        self._prune()

    def mark_best(self, step: int) -> None:
        """Mark this step's checkpoint as the best, which exempts it from pruning, in place of the previous best.

        Waits if it is still being written.
        """
        self.finish()
        write_whole(self._best, f"step_{step:06d}\n")
        self._prune()

    def best(self) -> int | None:
        """Step of the checkpoint marked as best; None if none is marked, or it no longer exists."""
        marked = self._best.read_text(encoding="utf-8").strip() if self._best.exists() else ""
        there = (self._folder / marked / "trainer.json").is_file()
        return int(marked.removeprefix("step_")) if marked and there else None

    def _prune(self) -> None:
        """Remove all checkpoints but the newest `keep` and the best."""
        best = self.best()
        for old in self.complete()[: -self._keep]:
            if best is None or old.name != f"step_{best:06d}":
                _remove(old)

    def complete(self) -> list[Path]:
        """Folders of the complete checkpoints, oldest first."""
        # Not by checksum: a checkpoint is renamed only once complete, and hashing reads all of it.
        found = [path for path in self._folder.glob("step_*") if (path / "trainer.json").is_file()]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))

    def newest(self) -> tuple[Path, TrainerState] | None:
        """The newest complete and undamaged checkpoint; None if there are no checkpoints.

        Raises:
            MissingError: There are checkpoints, but all are damaged.
        """
        complete = self.complete()
        for folder in reversed(complete):
            damaged = find_damage(folder)
            if damaged is None:
                values = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
                return folder, TrainerState.from_json(values)
            say(f"warning: {folder} is skipped: {damaged} is damaged (missing or checksum mismatch)")
        if complete:
            raise MissingError(f"{self._folder}: all {len(complete)} checkpoints are damaged; start a new run")
        return None


def wait_until_written(
    name: str, is_written: Callable[[], bool], timeout_seconds: float, given_up: threading.Event
) -> None:
    """Ask, every `POLL_SECONDS`, until the answer is yes. For a thread: signals are left to the main thread.

    Raises:
        StageTimeout: Not within `timeout_seconds`.
        TrainingError: `given_up` was set.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        # The answer of this time is lost.
        with suppress(Interrupted):
            if is_written():
                return
        if time.monotonic() > deadline:
            raise late(name, timeout_seconds)
        if given_up.wait(POLL_SECONDS):
            raise TrainingError(f"{name} was given up: the run ended before it was written")


def late(name: str, timeout_seconds: float) -> StageTimeout:
    """Of files that are not written in time."""
    return StageTimeout(f"the run waits for {name}: not written within {timeout_seconds:g} s (policy.timeout_seconds)")


def publish(staging: Path, final: Path) -> None:
    """Add checksums to the complete folder `staging` and rename it to `final`, replacing an existing folder."""
    (staging / CHECKSUMS).write_text(json.dumps(_checksums(staging), indent=2) + "\n", encoding="utf-8")
    # Before the rename, or a power failure could leave the final name on files whose data never reached the disk.
    _flush(staging)
    # A rename cannot replace a folder that is not empty.
    _remove(final)
    staging.rename(final)


def _remove(folder: Path) -> None:
    """Remove a folder if it exists."""
    if folder.exists():
        # Renamed first, so that a crash in between cannot leave a partial folder under its original name.
        doomed = folder.with_name(f"tmp_old_{folder.name}")
        folder.rename(doomed)
        shutil.rmtree(doomed)


def find_damage(checkpoint: Path) -> str | None:
    """Path of the first missing or altered file of a checkpoint, from its folder; None if it is undamaged.

    `model/` is not checked: resuming does not read the exported model, and users may move it elsewhere.
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
    """SHA-256 of each file in the folder and its subfolders, by relative path."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / CHECKSUMS:
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _flush(folder: Path) -> None:
    """Flush every file and folder below `folder` to disk (fsync)."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    # The entries of a folder (new names, renames) are flushed separately from the contents of its files.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
