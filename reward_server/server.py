"""Runs the reward server in this process: bind, announce, serve, drain."""

import errno
import ipaddress
import socket
import threading
from types import FrameType

import uvicorn

from reward_server.app import create_app
from reward_server.settings import Settings

# Longer than the time for which HTTP clients usually keep idle connections, so that it is the client who closes them:
# a connection closed from here may just be carrying the next request.
_KEEP_ALIVE_SECONDS = 75


class ServeError(Exception):
    """The server cannot listen where it was told to; the message is one line for the user."""


class PortInUse(ServeError):
    """Another process listens on the port."""


class HostNotLoopback(ServeError):
    """The host is reachable from other machines, which would let anybody ask for rewards."""


class _Server(uvicorn.Server):
    """Tells the user where it listens, the application when it stops, and ends normally after a signal."""

    def __init__(self, config: uvicorn.Config, announcement: str, draining: threading.Event) -> None:
        super().__init__(config)
        self._announcement = announcement
        self._draining = draining

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._announcement, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._draining.set()
        super().handle_exit(sig, frame)
        # The base class raises these signals again once it has drained, which would end the process with an error.
        self._captured_signals.clear()


def serve(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then finish running requests and return. Blocks; call it from the main thread.

    Prints one line to stdout once it listens: `reward server: http://127.0.0.1:5000`, with the real port.

    Args:
        host: A loopback address, or "localhost".
        port: 0 to 65535; 0 picks a free one.

    Raises:
        HostNotLoopback: The host is reachable from other machines.
        PortInUse: Another process listens there.
        ServeError: The system refuses the address for another reason.
    """
    listener = _listen(_loopback_address(host), port)
    address, bound_port = listener.getsockname()[:2]
    url_host = f"[{address}]" if ":" in address else address
    settings = Settings()
    draining = threading.Event()
    config = uvicorn.Config(
        create_app(settings, draining),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    _Server(config, f"reward server: http://{url_host}:{bound_port}", draining).run(sockets=[listener])


def _loopback_address(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise HostNotLoopback(f"host {host!r} is not a loopback address; use 127.0.0.1, ::1 or localhost")
    return host


def _listen(address: str, port: int) -> socket.socket:
    """A listening socket. Two processes that start at once can both bind a port, but only one can listen on it."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} of {address} is in use by another process; stop it, or choose another port "
                "(`--port 0` picks a free one)"
            ) from error
        raise ServeError(f"cannot listen on port {port} of {address}: {error.strerror}") from error
    return listener
