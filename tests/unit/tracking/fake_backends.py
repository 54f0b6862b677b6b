"""Backends that take the place of a real logger. Each runs in a process of its own, so little is imported here."""

import os
import threading
import time
from collections.abc import Mapping

from openr1.tracking.loggers.backends import Row, Setup, Wandb


class WandbWithoutTables(Wandb):
    """As wandb is while its service is away: metrics are kept, tables raise."""

    def start(self, setup: Setup) -> str:
        """Start the real one."""
        where = super().start(setup)
        self._table = None
        return where


class Recorder:
    """A logger that works, and writes each call into a file."""

    def start(self, setup: Setup) -> str:
        """Nothing can go wrong here."""
        self.path = setup.folder / "calls.txt"
        self.write("start")
        return "here"

    def log(self, step: int, metrics: Mapping[str, float], table: list[Row]) -> None:
        """Only recorded."""
        self.write(f"{step} {len(table)}")

    def finish(self, succeeded: bool) -> None:
        """Only recorded."""
        self.write("succeeded" if succeeded else "failed")

    def write(self, line: str) -> None:
        """Append a line."""
        with self.path.open("a") as file:
            file.write(f"{line}\n")


class StuckAtStart(Recorder):
    """Never answers."""

    def start(self, setup: Setup) -> str:
        """Wait for ever."""
        threading.Event().wait()
        return ""


class WaitsForOther(Recorder):
    """Starts when a `Recorder` beside it is through."""

    def start(self, setup: Setup) -> str:
        """Wait for it."""
        path = setup.folder / "calls.txt"
        while not path.exists() or "succeeded" not in path.read_text():
            time.sleep(0.05)
        return "there"

    def finish(self, succeeded: bool) -> None:
        """Nothing is left."""


class StuckAtEnd(Recorder):
    """Never gets rid of what it has."""

    def finish(self, succeeded: bool) -> None:
        """Wait for ever."""
        threading.Event().wait()


class Refusing(Recorder):
    """Takes every third step only, up to step 9, and none after."""

    def log(self, step: int, metrics: Mapping[str, float], table: list[Row]) -> None:
        """Refuse."""
        super().log(step, metrics, table)
        if step % 3 or step > 9:
            raise ValueError(f"not\n{step}")


class Dying(Recorder):
    """Takes its process with it."""

    def log(self, step: int, metrics: Mapping[str, float], table: list[Row]) -> None:
        """Die as by a signal, at the second step."""
        super().log(step, metrics, table)
        if step == 2:
            os._exit(1)
