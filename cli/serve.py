"""`serve`: run the reward server until it is told to stop."""

import argparse
import sys


def run(argv: list[str]) -> int:
    """Parse the flags, serve, and return the exit code: 0 after SIGTERM or Ctrl-C, 2 bad usage, 3 cannot listen."""
    parser = argparse.ArgumentParser(
        prog="python -m cli serve", description="Run the reward server that grades responses over HTTP."
    )
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=5000, help="port to listen on; 0 picks a free one (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)

    # Imported here, so that --help does not wait for a web framework.
    from reward_server.server import HostNotLoopback, ServeError, serve

    try:
        serve(arguments.host, arguments.port)
    except ServeError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2 if isinstance(error, HostNotLoopback) else 3
    return 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)
