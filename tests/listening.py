"""Which addresses processes listen on, as the kernel has it."""

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

import psutil

from tests.running import marked


@dataclass
class Listeners:
    """Listening TCP sockets that were seen: names of processes by address and port."""

    seen: dict[tuple[str, int], str] = field(default_factory=dict)

    def look(self, processes: Iterable[psutil.Process]) -> None:
        """Add those of these processes; one that has ended has none."""
        for process in processes:
            try:
                found = [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
                self.seen |= {(address.ip, address.port): process.name() for address in found}
            except psutil.Error:
                continue

    @property
    def exposed(self) -> list[str]:
        """Those that other machines can connect to."""
        return [f"{name} {ip}:{port}" for (ip, port), name in self.seen.items() if not is_loopback(ip)]


def is_loopback(ip: str) -> bool:
    """Whether an address is of this machine alone, also in the notation of IPv6 (::ffff:127.0.0.1)."""
    address = ipaddress.ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


@contextmanager
def watching(mark: str) -> Iterator[Listeners]:
    """Look twice a second, for the block, at all processes that inherited a mark."""
    listeners, ended = Listeners(), Event()

    def watch() -> None:
        while not ended.wait(0.5):
            listeners.look(marked(mark))

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield listeners
    finally:
        ended.set()
        thread.join()
