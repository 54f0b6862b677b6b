"""Runs the reward server in this process: bind, announce, serve, drain."""

import errno
import ipaddress
import socket
from types import FrameType

import uvicorn
from anyio import to_thread

from reward_server.app import create_app
from reward_server.schema import TOKEN_VARIABLE
from reward_server.service import Service

# Longer than the time for which HTTP clients usually keep idle connections, so that it is the client who closes them:
# a connection closed from here may just be carrying the next request.
_KEEP_ALIVE_SECONDS = 75


class ServeError(Exception):
    """The server cannot listen where it was told to; the message is one line for the user."""


class PortInUse(ServeError):
    """Another process listens on the port."""


class HostNotLoopback(ServeError):
    """The host is reachable from other machines, and nothing says who may ask for rewards."""


class _Server(uvicorn.Server):
    """Tells the user where it listens, the application when it stops, and ends normally after a signal."""

    def __init__(self, config: uvicorn.Config, announcement: str, service: Service) -> None:
        super().__init__(config)
        self._announcement = announcement
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        to_thread.current_default_thread_limiter().total_tokens = self._service.config.threads
        await super().startup(sockets)
        print(self._announcement, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.draining.set()
        super().handle_exit(sig, frame)
        # The base class raises these signals again once it has drained, which would end the process with an error.
        self._captured_signals.clear()


def serve(host: str, port: int, service: Service) -> None:
    """Serve until SIGTERM or SIGINT, then finish running requests and return. Blocks; call it from the main thread.

    Prints one line to stdout once it listens: `reward server: http://127.0.0.1:5000`, with the real port.

    Args:
        host: An address of this machine, or "localhost"; `check_host` says which are safe.
        port: 0 to 65535; 0 picks a free one.
        service: What to serve; closed at the end.

    Raises:
        PortInUse: Another process listens there.
        ServeError: The system refuses the address for another reason.
    """
    listener = _listen("127.0.0.1" if host == "localhost" else host, port)
    address, bound_port = listener.getsockname()[:2]
    url_host = f"[{address}]" if ":" in address else address
    config = uvicorn.Config(
        create_app(service),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=service.config.drain_seconds,
    )
    try:
        _Server(config, f"reward server: http://{url_host}:{bound_port}", service).run(sockets=[listener])
    finally:
        service.grader.close()


def check_host(host: str, token: str | None, insecure: bool) -> None:
    """Refuse to let other machines in by accident.

    Raises:
        HostNotLoopback: The host is not a loopback address, there is no token, and `insecure` is not set.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise HostNotLoopback(f"host {host!r} is not an IP address; use 127.0.0.1, ::1 or localhost") from error
    if not loopback and token is None and not insecure:
        raise HostNotLoopback(
            f"host {host!r} lets other machines in; set {TOKEN_VARIABLE} in the environment to ask them for a token, "
            "or pass --insecure to let everybody in"
        )


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
