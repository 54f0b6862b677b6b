"""Joins a Ray cluster that is already running, with a deadline and an explanation if that fails."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from openr1.errors import ConfigError, MissingError
from openr1.runtime.interrupts import INTERRUPTS
from openr1.runtime.nodes import Cluster, connected_cluster
from openr1.runtime.ray_calls import ray_errors

JOIN_SECONDS = 25.0
"""Deadline for a first connection. A wrong token takes Ray 20 seconds, a dead address minutes."""

LOCAL = "local"
"""Value of `cluster.address` for a cluster of the run's own even if RAY_ADDRESS is set."""

_CONNECT = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)"


def cluster_address(configured: str | None) -> str | None:
    """The cluster to join: `cluster.address`, else RAY_ADDRESS, which `ray job submit` sets; None: start one.

    Raises:
        ConfigError: It is the address of a Ray client, through which actors cannot be placed.
    """
    address = configured or os.environ.get("RAY_ADDRESS") or LOCAL
    if address.startswith("ray://"):
        raise ConfigError(
            f"{address} is an address for Ray clients; start the run on a node of the cluster, with the address of its "
            "head node, such as 10.0.0.1:6379, in cluster.address or RAY_ADDRESS"
        )
    return None if address == LOCAL else address


@contextmanager
def joined_ray(address: str) -> Iterator[Cluster]:
    """Be a driver of a running cluster for the block. Its actors end with the block, the cluster goes on.

    Raises:
        MissingError: No cluster answers at this address, or it refuses this process.
    """
    check_reachable(address)
    with INTERRUPTS.polled():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
            # ray.init replaces our SIGTERM handler with one that aborts the process.
            with INTERRUPTS.installed(), ray_errors():
                yield connected_cluster(is_own=False)
        finally:
            ray.shutdown()


def check_reachable(address: str) -> None:
    """Connect once in a child process, which can be ended: Ray tries for minutes, and does not react to signals then.

    Raises:
        MissingError: The child could not connect within `JOIN_SECONDS`.
    """
    command = [sys.executable, "-c", _CONNECT, address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        try:
            _, errors = child.communicate(timeout=JOIN_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            _, errors = child.communicate()
            reason = f"nothing answered within {JOIN_SECONDS:g} s; is `ray start --head` running there?"
        else:
            if child.returncode == 0:
                return
            reason = (errors.strip().splitlines() or ["no reason given"])[-1]
        finally:
            # Also after a signal: the block would wait for the child's end.
            child.kill()
    raise MissingError(f"Ray cluster {address}: {_explain_token(errors) or reason}")


def _explain_token(errors: str) -> str | None:
    """What to do if the cluster and this process do not agree on a token; None if that is not it."""
    if "InvalidAuthToken" not in errors and "AuthenticationError" not in errors:
        return None
    mode = os.environ.get("RAY_AUTH_MODE")
    problem = "RAY_AUTH_MODE is not set to token here" if mode != "token" else "the token here is missing or another"
    return (
        f"it wants a token, and {problem}; on every node and here, export RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN_PATH=FILE with the same file (docs/cluster.md)"
    )
