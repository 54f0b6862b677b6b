"""Ctrl-C and SIGTERM: raised where it is safe, held back while something must not be cut in half; a second is final."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

POLL_SECONDS = 0.2
"""How long a signal may go unnoticed during a wait."""


class Interrupted(BaseException):
    """A signal asked the run to stop. Not an Exception: nothing but the run itself should catch it."""

    def __init__(self, signum: int) -> None:
        """`signum` is SIGINT or SIGTERM."""
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """Turns SIGINT and SIGTERM into `Interrupted` in the main thread, while installed."""

    def __init__(self) -> None:
        """Nothing is installed yet."""
        self._held_back = False
        self._in_section = False
        self._polled = False
        self._pending: int | None = None
        self._ended: set[threading.Thread] = set()

    def end(self, thread: threading.Thread) -> None:
        """Have every `check` in the thread raise from now on, so that it ends."""
        self._ended.add(thread)

    def check(self) -> None:
        """Raise what has come, unless it is held back. Every long wait calls this a few times a second."""
        if threading.current_thread() in self._ended:
            raise Interrupted(signal.SIGTERM)
        if self._pending is not None and not self._held_back:
            raise Interrupted(self._pending)

    @contextmanager
    def polled(self) -> Iterator[None]:
        """Inside the block a signal is raised by `check` alone.

        Raised in the middle of Ray's compiled code, an exception would come out as another one, or not at all.
        """
        self._polled = True
        try:
            yield
        finally:
            self._polled = False
        self.check()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle both signals inside the block."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let the block finish: a signal that comes inside is raised at its end. Blocks may be nested."""
        if self._held_back:
            yield
            return
        self._held_back = True
        try:
            yield
        finally:
            self._held_back = False
        self.check()

    @contextmanager
    def section(self) -> Iterator[None]:
        """A block that `defer` reaches to the end of. Of nested blocks the outermost counts."""
        if self._in_section:
            yield
            return
        self._in_section = True
        try:
            yield
        finally:
            self._in_section = self._held_back = False
        self.check()

    def defer(self) -> None:
        """From here to the end of the `section` signals are held back: what has begun must be completed."""
        assert self._in_section
        self._held_back = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._pending is not None:
            # The second signal: leave now. Children end by themselves when this process is gone.
            os._exit(128 + signum)
        self._pending = signum
        if not self._polled:
            self.check()


INTERRUPTS = Interrupts()
"""Those of this process: signals are the process's own, and every wait in it asks here."""
