"""The process of one logger: `python -m openr1.tracking.loggers.process FD`, started and ended by `client.py`.

Logging libraries install signal handlers, print, and may wait at exit for their service without a time limit. In a
separate process none of this affects training.
"""

import pkgutil
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from openr1.tracking.loggers.backends import Backend

ORPHAN_SECONDS = 30
"""Time that a logger has to send what is left after the run was killed."""


def serve(calls: Connection) -> None:
    """Serve calls from a pipe.

    The first message is the import path of the backend. Each further one is (method, arguments) and is answered by
    (error, result), until `finish`.
    """
    backend: Backend = pkgutil.resolve_name(calls.recv())()
    methods: dict[str, Callable[..., object]] = {"start": backend.start, "log": backend.log, "finish": backend.finish}
    name = ""
    while name != "finish":
        try:
            name, arguments = calls.recv()
        except EOFError:
            # The run was killed, so nobody will end this process: SIGALRM does if `finish` hangs.
            signal.alarm(ORPHAN_SECONDS)
            backend.finish(False)
            return
        try:
            calls.send((None, methods[name](*arguments)))
        except Exception as error:  # noqa: BLE001 (any error of a logger is reported; the run goes on)
            calls.send((" ".join(f"{type(error).__name__}: {error}".split())[:300], None))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
