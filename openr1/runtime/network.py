"""The network interface over which processes of a run reach each other."""

import os
import socket

import psutil
import ray

from openr1.errors import ConfigError

LOOPBACK = "lo"
"""Interface of processes that are all on one machine: nobody else can connect."""


def use_interface(name: str | None) -> str:
    """Have this process's gloo and NCCL connect over an interface; returns its IPv4 address, to bind stores to.

    Left alone, gloo takes the address that the hostname resolves to, on many systems a loopback address, which other
    nodes cannot reach. Must be called in an actor, before its first process group.

    Args:
        name: See `find_interface`.

    Raises:
        ConfigError: See `find_interface`.
    """
    name, address = find_interface(name)
    os.environ["GLOO_SOCKET_IFNAME"] = name
    if name != LOOPBACK:
        # On one machine NCCL finds its own way, and needs no interface.
        os.environ["NCCL_SOCKET_IFNAME"] = name
    return address


def find_interface(name: str | None) -> tuple[str, str]:
    """Name and IPv4 address of an interface of this node.

    Args:
        name: The interface; None: the one that has this node's address in Ray. Names differ from node to node.

    Raises:
        ConfigError: There is no such interface, or it has no address.
    """
    addresses = _addresses()
    if name is None:
        own = ray.util.get_node_ip_address()
        name = next((one for one, address in addresses.items() if address == own), None)
        if name is None:
            raise ConfigError(
                f"no network interface has the address {own}; set cluster.interface to one of "
                f"{', '.join(sorted(addresses))}"
            )
    if name not in addresses:
        raise ConfigError(
            f"cluster.interface: there is no interface {name} with an IPv4 address; there is "
            f"{', '.join(sorted(addresses))}"
        )
    return name, addresses[name]


def own_address() -> str:
    """Address of this process's interface, after `use_interface`."""
    return _addresses()[os.environ["GLOO_SOCKET_IFNAME"]]


def _addresses() -> dict[str, str]:
    """IPv4 address of each interface that has one."""
    found: dict[str, str] = {}
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family == socket.AF_INET:
                found.setdefault(name, entry.address)
    return found
