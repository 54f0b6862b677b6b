"""Client of the reward server: one request a group, many at once, and typed errors instead of invented numbers."""

import asyncio
import concurrent.futures
import io
import random
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from pydantic import ValidationError

from openr1.errors import ConfigError, RewardProtocolError, RewardServerUnavailable
from openr1.records import Group, Score
from reward_server.schema import ScoreItem, ScoreReply, ScoreRequest, describe_problems

_MAX_ANSWER_BYTES = 16 * 2**20
_EXCERPT_CHARS = 200
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_RETRIED_STATUS = frozenset({408, 429, *range(500, 600)})
# A compressed answer could be far larger than what arrives, which would get around the cap above.
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class _NotYet(Exception):
    """An attempt failed in a way that may pass; `retry_after` is the pause in seconds that the server asked for."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RewardClient:
    """Sends groups of responses to the reward server from a thread of its own.

    Retries are safe, because grading changes nothing on the server. Methods may be called from any thread; only `close`
    must not run at the same time as another call.

    Args:
        url: Address of the server, `http://host:port`.
        deadline_seconds: Time for one group, all attempts together, counted from when it leaves the queue.
        ready_timeout_seconds: How long `wait_until_ready` waits.
        max_concurrency: Requests in flight at most; further groups queue.

    Raises:
        ConfigError: The URL is not one of an HTTP server.
    """

    def __init__(
        self,
        url: str,
        deadline_seconds: float = 60.0,
        ready_timeout_seconds: float = 30.0,
        max_concurrency: int = 64,
    ) -> None:
        self._url = url.rstrip("/")
        self._hint = f"start it with `python -m cli serve --port {_port_of(url)}`"
        self._deadline_seconds = deadline_seconds
        self._ready_timeout_seconds = ready_timeout_seconds
        self._slots = asyncio.Semaphore(max_concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reward-client", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(_open_session(), self._loop).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait_until_ready(self) -> None:
        """Block until the server says that it grades correctly.

        Raises:
            RewardServerUnavailable: It did not within `ready_timeout_seconds`.
        """
        waiting = self._repeat(self._ask_ready, self._ready_timeout_seconds, "was not ready")
        asyncio.run_coroutine_threadsafe(waiting, self._loop).result()

    def submit(self, group: Group) -> concurrent.futures.Future[list[Score]]:
        """Have a group graded; returns at once. The result holds one score a response, in their order.

        An item that the server could not grade is a `Score` without reward, never one of 0. The future raises

        - RewardServerUnavailable: no usable answer came within the deadline, over all attempts;
        - RewardProtocolError: the server refused the request, or its answer does not fit what was asked.

        Raises:
            ConfigError: The prompt holds something that JSON cannot carry.
        """
        return asyncio.run_coroutine_threadsafe(self._score(_build_request(group)), self._loop)

    def close(self) -> None:
        """Cancel what is pending and end the thread. Safe to call twice."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut_down(self) -> None:
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._session.close()

    async def _score(self, request: ScoreRequest) -> list[Score]:
        payload = request.model_dump_json().encode()
        async with self._slots:
            body = await self._repeat(lambda: self._post(payload), self._deadline_seconds, "did not answer")
        return self._read_scores(body, [item.id for item in request.items])

    async def _repeat(self, attempt: Callable[[], Awaitable[bytes]], timeout_seconds: float, complaint: str) -> bytes:
        """Call `attempt` until it returns. Pauses double from 0.1 to 5 s, shortened at random to spread the load.

        Raises:
            RewardServerUnavailable: Time is up.
        """
        attempts = 0
        last_failure = "none, it just keeps silent"
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    attempts += 1
                    try:
                        return await attempt()
                    except _NotYet as failure:
                        last_failure = str(failure)
                        pause = max(_backoff_seconds(attempts), failure.retry_after)
                    await asyncio.sleep(pause)
        except TimeoutError as error:
            raise RewardServerUnavailable(
                f"reward server {self._url} {complaint} within {timeout_seconds:g} s "
                f"(attempts: {attempts}, last failure: {last_failure}); {self._hint}"
            ) from error

    async def _ask_ready(self) -> bytes:
        status, _, body = await self._exchange("GET", "/ready", None)
        if status != 200:
            raise _NotYet(f"/ready answered {status}: {_excerpt(body)}")
        return body

    async def _post(self, payload: bytes) -> bytes:
        status, retry_after, body = await self._exchange("POST", "/get_score", payload)
        if status in _RETRIED_STATUS:
            raise _NotYet(f"/get_score answered {status}: {_excerpt(body)}", retry_after)
        if status != 200:
            raise RewardProtocolError(f"reward server {self._url}/get_score answered {status}: {_excerpt(body)}")
        return body

    async def _exchange(self, method: str, path: str, payload: bytes | None) -> tuple[int, float, bytes]:
        """One request. Returns the status, the pause in seconds that the server asks for (0: none), and the body."""
        # A file object, because aiohttp sends it in pieces; large bytes would block the loop.
        data = None if payload is None else io.BytesIO(payload)
        try:
            async with self._session.request(
                method, self._url + path, data=data, headers=_HEADERS, allow_redirects=False
            ) as response:
                return response.status, _retry_after_seconds(response), await self._read_capped(response)
        except aiohttp.ClientError as error:
            raise _NotYet(f"{type(error).__name__}: {error}") from error

    async def _read_capped(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _MAX_ANSWER_BYTES:
                raise RewardProtocolError(
                    f"reward server {self._url} answered more than {_MAX_ANSWER_BYTES} bytes, "
                    f"which begin {_excerpt(bytes(body))}"
                )
        return bytes(body)

    def _read_scores(self, body: bytes, ids: list[str]) -> list[Score]:
        """The scores of an answer, which must hold one result for each of `ids`, in their order."""
        try:
            results = ScoreReply.model_validate_json(body).results
        except ValidationError as error:
            raise self._unusable(describe_problems(error.errors()), body) from error
        if len(results) != len(ids):
            raise self._unusable(f"{len(results)} results for {len(ids)} items", body)
        for index, (result, expected) in enumerate(zip(results, ids, strict=True)):
            if result.id != expected:
                raise self._unusable(f"result {index} has the id {result.id!r} instead of {expected!r}", body)
        return [
            Score(result.reward, result.score, result.components, result.verdict, result.error) for result in results
        ]

    def _unusable(self, problem: str, body: bytes) -> RewardProtocolError:
        return RewardProtocolError(
            f"reward server {self._url} gave an answer that cannot be used: {problem}; it begins {_excerpt(body)}"
        )


async def _open_session() -> aiohttp.ClientSession:
    """A session without limits of its own: slots bound the connections, deadlines bound the time."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
    )


def _build_request(group: Group) -> ScoreRequest:
    prompt = group.prompt
    try:
        return ScoreRequest(
            task=prompt.task,
            items=[
                ScoreItem(
                    id=item_id,
                    response=response.text,
                    label=prompt.label,
                    prompt=prompt.text,
                    prefix=prompt.prefix,
                    meta=prompt.meta,
                    finish_reason=response.finish_reason,
                )
                for item_id, response in zip(group.ids, group.responses, strict=True)
            ],
        )
    except ValidationError as error:
        problems = describe_problems(error.errors())
        raise ConfigError(f"prompt {prompt.id!r} cannot be sent to the reward server: {problems}") from error


def _port_of(url: str) -> int:
    """Port of an HTTP address, its scheme's own where none is written."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"reward server URL {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"reward server URL {url!r} must look like http://127.0.0.1:5000")
    return port or {"http": 80, "https": 443}[parts.scheme]


def _backoff_seconds(attempts: int) -> float:
    longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(attempts - 1, 10))
    return longest * random.uniform(0.5, 1.0)


def _retry_after_seconds(response: aiohttp.ClientResponse) -> float:
    """Value of `Retry-After` in seconds. Its other form, a date, depends on two clocks and is not honoured: 0."""
    value: str = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _excerpt(body: bytes) -> str:
    """The beginning of a body, printable, on one line."""
    return repr(body[:_EXCERPT_CHARS].decode(errors="replace"))
