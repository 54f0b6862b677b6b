"""The store at which ranks meet."""

from datetime import timedelta

import psutil
import torch.distributed as dist

from openr1.workers.worker import listening_store
from tests.listening import Listeners


def listening_at(port: int) -> list[str]:
    """Addresses on which this process listens at a port."""
    listeners = Listeners()
    listeners.look([psutil.Process()])
    return [ip for ip, used in listeners.seen if used == port]


def test_the_store_listens_on_its_address_only() -> None:
    """Catches torch's default, all interfaces, at which any machine could change what the ranks read."""
    store = listening_store("127.0.0.1", 2)
    port = store.port
    assert listening_at(port) == ["127.0.0.1"]
    other = dist.TCPStore("127.0.0.1", port, 2, is_master=False, timeout=timedelta(seconds=30))
    other.set("from", "rank 1")
    assert store.get("from") == b"rank 1"
    del other, store
    assert listening_at(port) == []
