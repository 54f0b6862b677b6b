"""Client of the reward servers: one request per group, many in flight, and typed errors instead of made-up rewards."""

import asyncio
import concurrent.futures
import itertools
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from pydantic import ValidationError

from openr1.errors import ConfigError, RewardProtocolError, RewardServerUnavailable
from openr1.rewards.http import RetryableError, RewardHttp, port_of, read_token
from openr1.types import Grade, Group
from reward_server.schema import GraderName, ScoreItem, ScoreReply, ScoreRequest, describe_problems

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
# Minimum interval between two log warnings about the same server.
_WARNING_SECONDS = 60.0

_logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class RewardClient:
    """Sends groups of responses to reward servers from a background thread.

    Groups are distributed round-robin, with failover: if a server cannot answer, the next one is tried immediately.
    Retries are safe because grading has no side effects on a server. All methods are thread-safe, except that `close`
    must not run concurrently with another call. If the environment variable OPENR1_REWARD_TOKEN is set, it is sent to
    every server as a bearer token.

    Args:
        urls: Address of the server, `http://host:port`, or a list of several.
        deadline_seconds: Time limit for one group over all attempts, counted from when it leaves the queue. With n
            servers, a server that does not respond is abandoned for the next after 1/n of this time.
        ready_timeout_seconds: Time limit of `wait_until_ready`.
        max_concurrency: Maximum number of requests in flight, over all servers; further groups are queued.

    Raises:
        ConfigError: There is no URL, a URL is not a valid HTTP address, or the token cannot be sent in a header.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        deadline_seconds: float = 60.0,
        ready_timeout_seconds: float = 30.0,
        max_concurrency: int = 64,
    ) -> None:
        listed = [urls] if isinstance(urls, str) else urls
        self._hints = {url.rstrip("/"): f"start it with `python -m cli serve --port {port_of(url)}`" for url in listed}
        if not self._hints:
            raise ConfigError("reward server URL: the list is empty")
        self._urls = list(self._hints)
        token = read_token()
        self._turns = itertools.count()
        self._next_warning: dict[str, float] = {}
        self._versions: dict[str, list[str]] = {}
        self._deadline_seconds = deadline_seconds
        self._ready_timeout_seconds = ready_timeout_seconds
        self._slots = asyncio.Semaphore(max_concurrency)
        # The callers are synchronous (the trainer and its sampling thread), so the event loop needs its own thread.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reward-client", daemon=True)
        self._thread.start()
        self._http = asyncio.run_coroutine_threadsafe(_open(token), self._loop).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait_until_ready(self) -> None:
        """Block until every server reports ready. All are required, because failover would hide a mistyped address.

        Raises:
            RewardServerUnavailable: Some server was not ready within `ready_timeout_seconds`; the message lists them.
            ConfigError: A server rejected the token.
        """
        asyncio.run_coroutine_threadsafe(self._wait_until_ready(), self._loop).result()

    def tasks(self) -> frozenset[str] | None:
        """The tasks that every server can grade (`GET /tasks`); None if some server does not tell."""
        return asyncio.run_coroutine_threadsafe(self._tasks(), self._loop).result()

    def submit(self, group: Group) -> concurrent.futures.Future[list[Grade]]:
        """Request the grades of a group; returns at once.

        Returns:
            A future of one grade per response, in their order. A response that the server could not grade has a
            `Grade` without reward, never a reward of 0. The future raises

            - RewardServerUnavailable: no usable answer arrived within the deadline, over all attempts;
            - RewardProtocolError: a server rejected the request, or its answer does not match the request;
            - ConfigError: a server rejected the token.

        Raises:
            ConfigError: The prompt contains a value that cannot be sent as JSON.
        """
        return asyncio.run_coroutine_threadsafe(
            self._score(ScoreRequest(task=group.prompt.task, items=to_items(group))), self._loop
        )

    def close(self) -> None:
        """Cancel pending requests and end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        # Cancelled tasks and the HTTP session still need the loop to clean up, so it is stopped last.
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut_down(self) -> None:
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._http.close()

    async def _wait_until_ready(self) -> None:
        async def check_ready(url: str) -> str | None:
            try:
                return await self._repeat(self._http.require_ready, [url], self._ready_timeout_seconds, "was not ready")
            except RewardServerUnavailable as error:
                return str(error)

        # All servers are awaited even if one fails, so that the message lists every unavailable one.
        failures = await asyncio.gather(*map(check_ready, self._urls))
        if any(failures):
            raise RewardServerUnavailable("; ".join(filter(None, failures)))

    async def _tasks(self) -> frozenset[str] | None:
        told = await asyncio.gather(*(self._http.tasks(url) for url in self._urls))
        known = [names for names in told if names is not None]
        return frozenset.intersection(*known) if len(known) == len(told) else None

    async def _score(self, request: ScoreRequest) -> list[Grade]:
        payload = request.model_dump_json().encode()
        ids = [item.id for item in request.items]
        # The deadline begins inside: time in the queue depends on `max_concurrency`, not on the servers.
        async with self._slots:
            turn = next(self._turns) % len(self._urls)
            urls = self._urls[turn:] + self._urls[:turn]

            async def ask(url: str) -> list[Grade]:
                # The last server of a round may use all remaining time: there is no other server left to try.
                limit = None if url == urls[-1] else self._deadline_seconds / len(urls)
                return self._read_scores(url, await self._ask_score(url, payload, limit), ids)

            return await self._repeat(ask, urls, self._deadline_seconds, "did not answer")

    async def _ask_score(self, url: str, payload: bytes, seconds: float | None) -> bytes:
        """One attempt at one server. Failures are logged here, because failover would otherwise hide them."""
        try:
            async with asyncio.timeout(seconds):
                return await self._http.get_score(url, payload)
        except TimeoutError:
            failure = RetryableError(f"no answer within {seconds:g} s")
        except RetryableError as caught:
            failure = caught
        if self._loop.time() >= self._next_warning.get(url, 0.0):
            self._next_warning[url] = self._loop.time() + _WARNING_SECONDS
            _logger.warning("reward server %s failed; retrying there or on the next server: %s", url, failure)
        raise failure

    async def _repeat(
        self, ask: Callable[[str], Awaitable[_Answer]], urls: list[str], timeout_seconds: float, complaint: str
    ) -> _Answer:
        """Call `ask` with each URL in turn, in rounds, until it returns.

        After a round in which every server failed, back off exponentially from 0.1 to 5 s, with random jitter that
        shortens the pause. The pause is at least the smallest `Retry-After` of the round.

        Raises:
            RewardServerUnavailable: The time limit has passed.
        """
        attempts = dict.fromkeys(urls, 0)
        last_failures = dict.fromkeys(urls, "no response")
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    retry_after = []
                    for url in urls:
                        attempts[url] += 1
                        try:
                            return await ask(url)
                        except RetryableError as failure:
                            last_failures[url] = str(failure)
                            retry_after.append(failure.retry_after)
                    # The smallest Retry-After suffices: that server can serve the next round on its own.
                    await asyncio.sleep(max(_backoff_seconds(attempts[urls[0]]), min(retry_after)))
        except TimeoutError as error:
            failed = [
                f"reward server {url} {complaint} within {timeout_seconds:g} s "
                f"(attempts: {attempts[url]}, last failure: {last_failures[url]}); {self._hints[url]}"
                for url in urls
            ]
            raise RewardServerUnavailable("; ".join(failed)) from error

    def _read_scores(self, url: str, body: bytes, ids: list[str]) -> list[Grade]:
        """Parse an answer, which must contain one result for each of `ids`, in their order."""
        try:
            reply = ScoreReply.model_validate_json(body)
        except ValidationError as error:
            # Not chained: pydantic's message quotes the server's answer, which may echo the token.
            raise self._unusable(url, describe_problems(error.errors()), body) from None
        results = reply.results
        if len(results) != len(ids):
            raise self._unusable(url, f"{len(results)} results for {len(ids)} items", body)
        for index, (result, expected) in enumerate(zip(results, ids, strict=True)):
            if result.id != expected:
                # Matching by position alone would give a response the reward of another one.
                raise self._unusable(url, f"result {index} has the id {result.id!r} instead of {expected!r}", body)
        self._note_version(url, reply.grader)
        return [
            Grade(result.reward, result.score, result.components, result.verdict, result.error) for result in results
        ]

    def _note_version(self, url: str, grader: GraderName) -> None:
        """Warn once about each new grader version after the first: rewards may change in the middle of a run."""
        seen = self._versions.setdefault(grader.name, [])
        if grader.version in seen:
            return
        if seen:
            _logger.warning(
                "reward server %s grades %r with version %r, earlier answers came from version %r; "
                "rewards may not be comparable",
                *(url, grader.name, grader.version, seen[-1]),
            )
        seen.append(grader.version)

    def _unusable(self, url: str, problem: str, body: bytes) -> RewardProtocolError:
        return RewardProtocolError(
            f"reward server {url} gave an answer that cannot be used: {problem}; it begins {self._http.excerpt(body)}"
        )


async def _open(token: str | None) -> RewardHttp:
    """Create the session on the client's event loop, as aiohttp requires."""
    return RewardHttp(token)


def to_items(group: Group) -> list[ScoreItem]:
    """Convert a group to request items, one per response.

    Raises:
        ConfigError: The prompt contains a value that cannot be sent as JSON.
    """
    prompt = group.prompt
    try:
        return [
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
        ]
    except ValidationError as error:
        problems = describe_problems(error.errors())
        raise ConfigError(f"prompt {prompt.id!r} cannot be sent to the reward server: {problems}") from error


def _backoff_seconds(attempts: int) -> float:
    longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(attempts - 1, 10))
    return longest * random.uniform(0.5, 1.0)
