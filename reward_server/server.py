"""Runs the reward server in this process: binds the port, announces it, serves, and drains on shutdown."""

import errno
import ipaddress
import socket
from types import FrameType

import uvicorn
from anyio import to_thread

from reward_server.app import create_app
from reward_server.schema import TOKEN_VARIABLE
from reward_server.service import Service

# Longer than HTTP clients usually keep idle connections, so that the client closes them: if the server did, the client
# might be sending its next request on the same connection at that moment, and that request would be lost.
_KEEP_ALIVE_SECONDS = 75


class ServeError(Exception):
    """The server cannot listen on the requested address. The message is one line for the user."""


class PortInUse(ServeError):
    """Another process is already listening on the port."""


class HostNotLoopback(ServeError):
    """The host is reachable from other machines, but no authentication is configured."""


class _Server(uvicorn.Server):
    """uvicorn, plus: announces its address, sets `Service.draining` on a signal, and returns normally after one."""

    def __init__(self, config: uvicorn.Config, announcement: str, service: Service) -> None:
        super().__init__(config)
        self._announcement = announcement
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # FastAPI runs routes that are not async in anyio's thread pool, which has 40 threads by default.
        to_thread.current_default_thread_limiter().total_tokens = self._service.config.threads
        await super().startup(sockets)
        print(self._announcement, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.draining.set()
        super().handle_exit(sig, frame)
        # uvicorn re-raises captured signals after draining, so the process would end with the signal's exit status.
        self._captured_signals.clear()


def serve(host: str, port: int, service: Service) -> None:
    """Serve until SIGTERM or SIGINT, then finish running requests and return.

    Blocks, and must be called from the main thread, because it handles signals. Once the server is listening, prints
    one line to stdout with the actual port: `reward server: http://127.0.0.1:5000`.

    Args:
        host: An IP address of this machine, or "localhost"; `check_host` tells which are safe.
        port: 0 to 65535; 0 picks a free port.
        service: The objects that the routes share; its grader is closed at the end.

    Raises:
        PortInUse: Another process is already listening on the port.
        ServeError: The address cannot be bound for another reason.
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
    """Reject a host that would expose the server to other machines without authentication.

    Raises:
        HostNotLoopback: The host is not a loopback address, there is no token, and `insecure` is not set.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise HostNotLoopback(f"host {host!r} is not an IP address; use 127.0.0.1, ::1 or localhost") from error
    if not loopback and token is None and not insecure:
        raise HostNotLoopback(
            f"host {host!r} is reachable from other machines; set {TOKEN_VARIABLE} in the environment to require a "
            "bearer token, or pass --insecure to accept requests from everyone"
        )


def _listen(address: str, port: int) -> socket.socket:
    """A listening socket.

    Listens here, before uvicorn starts: with SO_REUSEADDR two processes that start at the same time can both bind a
    port, but only one of them can listen on it.
    """
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
