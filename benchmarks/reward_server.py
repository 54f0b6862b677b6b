"""Load test of the reward server: items per second and latencies, with and without adversarial items, on two cores.

    python -m benchmarks.reward_server [--seconds 8] [--rounds 7] [--output benchmarks/results/reward_server.json]

The server and its workers are pinned to one core, this client to another. Requests contain 64 items, and 8 are in
flight. All items are distinct, so that no result is cached. Hostile items either exceed the size limits or keep a
worker busy until it is killed: the limit on CPU time is lowered to 0.3 s, so that a long but harmless sum exceeds it.
They make up 1 % of the items of a load, in separate requests; only ordinary requests are measured. Loads with and
without hostile items alternate on one server, and each pair gives a ratio, which is insensitive to drift of the
machine's speed.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.machine import ROOT, spread, write_result
from openr1.rewards.process import running_reward_server

ITEMS, IN_FLIGHT, HOSTILE_EVERY = 64, 8, 100
SERVER_CORE, CLIENT_CORE = 0, 1
WORKER_SECONDS = 0.3
"""CPU time for a comparison, a tenth of the default."""
Item = dict[str, str]
_numbers = random.Random(0)


def numeric(serial: int) -> Item:
    """Return an item with an integer answer, correct or wrong."""
    return {"response": rf"So it is \boxed{{{serial}}}.", "label": str(serial + serial % 2)}


def general(serial: int) -> Item:
    """Return an item with a surd, correct or wrong, which is compared by exact arithmetic."""
    a, b, c = _numbers.randint(2, 999), _numbers.randint(2, 999), serial
    shown = rf"\frac{{{a}\sqrt{{{b}}}+{c}}}{{{b}}}"
    return {"response": rf"So it is \boxed{{{shown}}}.", "label": rf"\frac{{{a}}}{{\sqrt{{{b}}}}}+\frac{{{c}}}{{{b}}}"}


def parsed(serial: int) -> Item:
    """Return an item with a determinant, correct or wrong, which needs the LaTeX parser and so a worker."""
    a = _numbers.randint(2, 999)
    shown = rf"\begin{{vmatrix}} {a} & 1 \\ 1 & {serial} \end{{vmatrix}}"
    return {"response": rf"So it is \boxed{{{shown}}}.", "label": str(a * serial - serial % 2)}


def oversized(serial: int) -> Item:
    """Return an item that exceeds the size limits, a sum of 800 terms, and is rejected without being read."""
    return {"response": rf"\boxed{{{'1+' * 800}{serial}}}", "label": "7"}


def slow(serial: int) -> Item:
    """Return an item that keeps a worker busy for about a second, or until it is killed."""
    return {"response": rf"\boxed{{\sum_{{k=1}}^{{{1500 + serial % 100}}} \frac{{1}}{{k^2+1}}}}", "label": "7"}


class TooManyRequests(Exception):
    """The server has reached its limit of concurrent requests (HTTP 429)."""


class Load:
    """Keeps eight requests in flight for some seconds, and sends hostile items in separate requests."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url
        self._serial = _numbers.randrange(10**6, 10**8)

    async def run(
        self, make: Callable[[int], Item], seconds: float, hostile: Callable[[int], Item] | None = None
    ) -> Any:
        """Return throughput and latencies of the ordinary items, after the last hostile one has been answered."""
        requests: list[float] = []
        items: list[float] = []
        sent: list[asyncio.Task[Any]] = []
        end = time.monotonic() + seconds
        start_time = time.monotonic()

        async def send_requests() -> None:
            while time.monotonic() < end:
                start = time.monotonic()
                results = await self._post([make(serial) for serial in self._serials(ITEMS)])
                requests.append(time.monotonic() - start)
                items.extend(result["ms"] / 1000 for result in results)
                if hostile is not None and len(items) // HOSTILE_EVERY > len(sent):
                    sent.append(asyncio.create_task(self._send_hostile(hostile(next(self._serials(1))), seconds)))

        await asyncio.gather(*(send_requests() for _ in range(IN_FLIGHT)))
        wall_seconds = time.monotonic() - start_time
        await asyncio.gather(*sent)
        return {
            "items_per_second": len(items) / wall_seconds,
            "request_seconds": percentiles(requests),
            "item_seconds": percentiles(items),
            "hostile": len(sent),
        }

    async def run_sequentially(self, make: Callable[[int], Item], count: int) -> dict[str, float]:
        """Return percentiles of the seconds of sequential requests with one item each."""
        seconds = []
        for serial in self._serials(count):
            start = time.monotonic()
            await self._post([make(serial)])
            seconds.append(time.monotonic() - start)
        return percentiles(seconds)

    def _serials(self, count: int) -> Iterator[int]:
        for _ in range(count):
            self._serial += 1
            yield self._serial

    async def _send_hostile(self, item: Item, seconds: float) -> None:
        """Send a hostile item with a deadline of `seconds`; a response that the server is busy is accepted, too."""
        with suppress(TooManyRequests):
            await self._post([item], deadline_ms=int(seconds * 1000))

    async def _post(self, items: list[Item], deadline_ms: int | None = None) -> list[dict[str, Any]]:
        body = {
            "task": "math",
            "items": [{"id": str(n), **item} for n, item in enumerate(items)],
            "deadline_ms": deadline_ms,
        }
        async with self._session.post(f"{self._url}/get_score", json=body) as response:
            if response.status == 429:
                raise TooManyRequests
            assert response.status == 200, await response.text()
            results: list[dict[str, Any]] = (await response.json())["results"]
            return results


def percentiles(values: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum."""
    ordered = sorted(values)
    return {"p50": statistics.median(ordered), "p99": ordered[int(0.99 * (len(ordered) - 1))], "max": ordered[-1]}


async def measure(url: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Run all loads, alternating loads without and with each kind of hostile items."""
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        load = Load(session, url)
        await load.run(general, 2.0)
        result: dict[str, Any] = {
            "lone_item_seconds": {
                "numeric": await load.run_sequentially(numeric, 300),
                "general": await load.run_sequentially(general, 300),
                "parsed": await load.run_sequentially(parsed, 300),
            }
        }
        for kind in (numeric, general, parsed):
            result[kind.__name__] = {}
            for hostile in (oversized, slow):
                pairs = []
                for number in range(rounds):
                    pairs.append((await load.run(kind, seconds), await load.run(kind, seconds, hostile)))
                    alone, both = (f"{run['items_per_second']:.0f}" for run in pairs[-1])
                    progress = f"{kind.__name__} {number + 1}/{rounds}: {alone} items/s, {both} with {hostile.__name__}"
                    print(progress, file=sys.stderr)
                result[kind.__name__][hostile.__name__] = summarize(pairs)
    return result


def summarize(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Return ratios of loads with hostile items to loads without, and the latter; each as median, min and max."""
    readers: dict[str, Callable[[Any], float]] = {
        "items_per_second": lambda run: run["items_per_second"],
        "request_p50": lambda run: run["request_seconds"]["p50"],
        "request_p99": lambda run: run["request_seconds"]["p99"],
        "item_p50": lambda run: run["item_seconds"]["p50"],
        "item_p99": lambda run: run["item_seconds"]["p99"],
    }
    return {
        "hostile": sum(with_them["hostile"] for _, with_them in pairs),
        "ratios": {name: spread([read(b) / read(a) for a, b in pairs]) for name, read in readers.items()},
        "without": {name: spread([read(run) for run, _ in pairs]) for name, read in readers.items()},
    }


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of each load")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of loads per kind of hostile items")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/reward_server.json")
    args = parser.parse_args()
    # A process inherits the cores of the one that starts it.
    os.sched_setaffinity(0, {SERVER_CORE})
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "server.yaml"
        config.write_text(f"settings: {{worker_seconds: {WORKER_SECONDS}}}")
        with running_reward_server(config) as url:
            os.sched_setaffinity(0, {CLIENT_CORE})
            result = asyncio.run(measure(url, args.seconds, args.rounds))
    write_result(args.output, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
