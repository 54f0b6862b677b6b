"""The wait for an actor that Ray starts again."""

import asyncio
import signal
import threading

import pytest
import ray

from openr1.errors import StageTimeout
from openr1.runtime import restarts
from openr1.runtime.interrupts import Interrupted, Interrupts
from openr1.runtime.restarts import wait_until_started


@ray.remote(num_cpus=0)
class Loading:
    """Never ready."""

    async def ready(self) -> None:
        """Not before the test is over."""
        await asyncio.sleep(600)


def test_the_wait_has_a_deadline_and_notices_signals(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a Ctrl-C that waits until a large model is loaded, and a wait without an end."""
    actor = Loading.remote()
    with pytest.raises(StageTimeout, match=r"somebody waits: not started again within 0\.5 s"):
        wait_until_started(actor, 0.5, "somebody waits")
    interrupts = Interrupts()
    monkeypatch.setattr(restarts, "INTERRUPTS", interrupts)
    threading.Timer(0.5, lambda: setattr(interrupts, "_pending", signal.SIGINT)).start()
    with pytest.raises(Interrupted):
        wait_until_started(actor, 60.0, "somebody waits")
    ray.kill(actor)
