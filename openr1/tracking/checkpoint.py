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
import re
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from openr1.config.sections import CheckpointConfig
from openr1.errors import MissingError, NotSaved, StageTimeout, TrainingError
from openr1.runtime.console import say
from openr1.runtime.disk import free_bytes, in_gib
from openr1.runtime.faults import FAULTS
from openr1.runtime.files import step_paths, write_whole
from openr1.runtime.interrupts import POLL_SECONDS, Interrupted
from openr1.types import TrainerState

WriteFolder = Callable[[Path], None]
CHECKSUMS = "checksums.json"
_LEFTOVER = re.compile(r"tmp_(?:(?:old_)?(?:damaged_)?step_\d{6,}|universal_\w+)")
"""Folders that only openr1 makes, beside checkpoints."""
CLOSE_SECONDS = 30.0
"""How long a run that ends with an error still waits for a checkpoint that is being written."""


class Checkpoints:
    """The checkpoints of one run, of which at most one is being written in the background (`check`, `finish`).

    Of one that cannot be written nothing is left, and the older ones stay. Then `checkpoint.on_failed_save` decides:
    the method that finds it raises NotSaved, or says so and returns.

    Attributes:
        num_failed: How many could not be written so far.
    """

    def __init__(
        self, folder: Path, settings: CheckpointConfig, timeout_seconds: float, checkpoint_bytes: int = 0
    ) -> None:
        """Manage `folder`.

        Args:
            folder: Need not exist yet.
            settings: How many to keep, besides the best one; what to do about one that cannot be written.
            timeout_seconds: Deadline for one to be written (`policy.timeout_seconds`).
            checkpoint_bytes: Size of one, without which none is begun.
        """
        self._folder = folder
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._checkpoint_bytes = checkpoint_bytes
        self._best = folder / "best"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._closed = threading.Event()
        self._pending: tuple[int, Future[None]] | None = None
        self._written = 0
        self.num_failed = 0

    @property
    def saved(self) -> int:
        """Step of the newest checkpoint, also of one that is still being written; 0 without any."""
        return self._written if self._pending is None else self._pending[0]

    def save(self, state: TrainerState, write_contents: WriteFolder, is_written: Callable[[], bool]) -> None:
        """Begin a checkpoint. It appears under its final name only once it is complete and on disk.

        Waits for the one before it.

        Args:
            state: Written as `trainer.json`.
            write_contents: Called with the folder for everything else. Returns once training can change what it saves.
            is_written: Whether all of that is in the folder; raises if it cannot be. Called on a thread.

        Raises:
            NotSaved: This checkpoint, or the one before it, could not be written.
            TrainingError: The one before it was not written within the deadline.
        """
        self.finish()
        # Left behind by a process that was killed while it saved, converted or removed a checkpoint.
        for leftover in self._folder.glob("tmp_*"):
            if _LEFTOVER.fullmatch(leftover.name):
                _delete(leftover)
        staging = self._staging(state.step)
        try:
            if free_bytes(self._folder) < self._checkpoint_bytes:
                raise NotSaved(f"it takes {in_gib(self._checkpoint_bytes)}")
            staging.mkdir(parents=True)
            # What the driver writes comes first: once ranks write, their files cannot be removed at once.
            (staging / "trainer.json").write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
            write_contents(staging)
        except (OSError, NotSaved) as error:
            self._give_up(state.step, error)
            return
        final = self._folder / f"step_{state.step:06d}"
        self._pending = state.step, self._thread.submit(self._publish, staging, final, is_written)

    def check(self) -> None:
        """Find what has gone wrong in the background; does not wait."""
        if self._pending is None or not self._pending[1].done():
            return
        (step, written), self._pending = self._pending, None
        try:
            written.result()
        except (OSError, NotSaved) as error:
            self._give_up(step, error)
        else:
            self._written = step

    def _give_up(self, step: int, error: Exception) -> None:
        """Remove what there is of a checkpoint, and do about it what the settings say."""
        self.num_failed += 1
        shutil.rmtree(self._staging(step), ignore_errors=True)
        self._latest_staging.unlink(missing_ok=True)
        text = (
            f"{self._folder}: step {step} is not saved: {' '.join(str(error).split())}; "
            f"{in_gib(free_bytes(self._folder))} are free there; if that is too little, lower checkpoint.keep"
        )
        if self._settings.on_failed_save == "stop":
            raise NotSaved(text) from error
        say(f"{text}; the run goes on (checkpoint.on_failed_save)")

    def _staging(self, step: int) -> Path:
        return self._folder / f"tmp_step_{step:06d}"

    @property
    def _latest_staging(self) -> Path:
        return self._folder / "latest.tmp"

    def finish(self) -> None:
        """Wait until what is being written is published, and find what has gone wrong.

        Raises:
            NotSaved: It could not be written.
            StageTimeout: It was not written within the deadline.
        """
        if self._pending is not None and not wait([self._pending[1]], self._timeout_seconds).done:
            raise late(f"the checkpoint that is being written in {self._folder}", self._timeout_seconds)
        self.check()

    def finish_last(self, step: int) -> None:
        """`finish` at the end of a run, whose last step must be saved whatever `checkpoint.on_failed_save` is.

        Raises:
            NotSaved: It is not.
        """
        self.finish()
        if self.saved != step:
            raise NotSaved(
                f"{self._folder}: the run ends, and its last step, {step}, is not saved: make room, and continue from "
                f"step {self.saved} with --resume"
            )

    def close(self) -> None:
        """At the end of a run, also one that failed: a last chance for what is still being written."""
        if self._pending is not None:
            wait([self._pending[1]], CLOSE_SECONDS)
        self._closed.set()

    def _publish(self, staging: Path, final: Path, is_written: Callable[[], bool]) -> None:
        """On the thread: wait until all ranks have written, then make the checkpoint the newest."""
        wait_until_written(str(staging), is_written, self._timeout_seconds, self._closed)
        FAULTS.at("publish")
        # Before the rename, which needs no room: once the checkpoint is there, a full disk must not matter any more.
        self._latest_staging.write_text(final.name + "\n", encoding="utf-8")
        publish(staging, final)
        FAULTS.at("published")
        # Later checkpoints must be damaged ones, which resuming skipped. Set aside, they cannot count as the newest.
        complete = self.complete()
        for later in complete[complete.index(final) + 1 :]:
            damaged = later.with_name(f"damaged_{later.name}")
            remove_folder(damaged)
            later.rename(damaged)
        # After the folder itself, so that `latest` never names a checkpoint that is not there.
        self._latest_staging.replace(self._folder / "latest")
        _flush_folder(self._folder)
        # Last: an older checkpoint may go only once the new one is safely on disk.
        self._prune()

    def mark_best(self, step: int) -> None:
        """Mark this step's checkpoint as the best, which exempts it from pruning, in place of the previous best.

        Waits if it is still being written. One that could not be written is not marked.
        """
        self.finish()
        if not (self._folder / f"step_{step:06d}/trainer.json").is_file():
            return
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
        for old in self.complete()[: -self._settings.keep]:
            if best is None or old.name != f"step_{best:06d}":
                remove_folder(old)

    def complete(self) -> list[Path]:
        """Folders of the complete checkpoints, oldest first."""
        # Not by checksum: a checkpoint is renamed only once complete, and hashing reads all of it.
        return [path for _, path in step_paths(self._folder) if (path / "trainer.json").is_file()]

    def newest(self) -> tuple[Path, TrainerState] | None:
        """The newest complete and undamaged checkpoint, from which the run goes on; None without folders of any.

        Raises:
            MissingError: There are checkpoints, but all are damaged.
        """
        # Also those that lack their `trainer.json`, or a run would begin anew over what is left of them.
        folders = [path for _, path in step_paths(self._folder)]
        for folder in reversed(folders):
            damaged = find_damage(folder)
            if damaged is None:
                values = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
                state = TrainerState.from_json(values)
                self._written = state.step
                return folder, state
            say(f"warning: {folder} is skipped: {damaged} is damaged (missing or checksum mismatch)")
        if folders:
            raise MissingError(f"{self._folder}: all {len(folders)} checkpoints are damaged; start a new run")
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
    remove_folder(final)
    staging.rename(final)


def remove_folder(folder: Path) -> None:
    """Remove a folder if it exists; of a link to a folder elsewhere, only the link."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        # Renamed first, so that a crash in between cannot leave a partial folder under its original name.
        doomed = folder.with_name(f"tmp_old_{folder.name}")
        if doomed.exists():
            _delete(doomed)
        folder.rename(doomed)
        _delete(doomed)


def _delete(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)


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
