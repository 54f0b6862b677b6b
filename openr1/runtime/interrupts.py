"""Ctrl-C and SIGTERM: raised at safe points, deferred during critical sections; a second signal exits immediately."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

POLL_SECONDS = 0.2
"""Longest delay until a wait notices a signal."""


class Interrupted(BaseException):
    """A signal requested the run to stop. Not an `Exception`, so that only the run itself catches it."""

    def __init__(self, signum: int) -> None:
        """`signum` is SIGINT or SIGTERM."""
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """Turns SIGINT and SIGTERM into `Interrupted` in the main thread, while `installed`."""

    def __init__(self) -> None:
        """Create without installing; see `installed`."""
        self._held_back = False
        self._in_section = False
        self._polled = False
        self._pending: int | None = None
        self._ended: set[threading.Thread] = set()

    def end(self, thread: threading.Thread) -> None:
        """Make every further `check` in `thread` raise, so that the thread ends."""
        self._ended.add(thread)

    def check(self) -> None:
        """Raise `Interrupted` if a signal is pending and not held back. Every long wait polls this (`POLL_SECONDS`)."""
        if threading.current_thread() in self._ended:
            raise Interrupted(signal.SIGTERM)
        if self._pending is not None and not self._held_back:
            raise Interrupted(self._pending)

    @contextmanager
    def polled(self) -> Iterator[None]:
        """Inside the block, only `check` raises signals.

        An exception raised inside Ray's compiled code would be replaced by another one, or lost.
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
        """Critical section: a signal that arrives inside is raised at the end of the block. Blocks may be nested."""
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
        """Delimit the scope of `defer`. If blocks are nested, the outermost one counts."""
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
        """Hold signals back until the end of the `section`: the work that begins here must be completed."""
        assert self._in_section
        self._held_back = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._pending is not None:
            # Second signal: exit immediately. Child processes end by themselves once this one is gone.
            os._exit(128 + signum)
        self._pending = signum
        if not self._polled:
            self.check()


INTERRUPTS = Interrupts()
"""The instance of this process. It is global because signal handlers are, and every wait must check the same one."""
