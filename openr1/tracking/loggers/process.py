"""The process of one logger: `python -m openr1.tracking.loggers.process FD`, started and ended by `client.py`.

Tracking libraries take over signals, print, and wait for their service at exit without a limit. Here they may.
"""

import pkgutil
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from openr1.tracking.loggers.backends import Backend

ORPHAN_SECONDS = 30
"""Once the run is gone, its tracker may take so long to send what is left."""


def serve(calls: Connection) -> None:
    """Make the backend named first, then answer (error, result) to each (method, arguments), up to `finish`."""
    backend: Backend = pkgutil.resolve_name(calls.recv())()
    methods: dict[str, Callable[..., object]] = {"start": backend.start, "log": backend.log, "finish": backend.finish}
    name = ""
    while name != "finish":
        try:
            name, arguments = calls.recv()
        except EOFError:
            # The run was killed, and nobody is left to end this process.
            signal.alarm(ORPHAN_SECONDS)
            backend.finish(False)
            return
        try:
            calls.send((None, methods[name](*arguments)))
        except Exception as error:  # noqa: BLE001 (whatever a tracker raises, the run must know and go on)
            calls.send((" ".join(f"{type(error).__name__}: {error}".split())[:300], None))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
