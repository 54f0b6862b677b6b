"""Client of the reward servers: one request a group, many at once, and typed errors instead of invented numbers."""

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
from openr1.rewards.http import NotYet, RewardHttp, port_of, read_token
from openr1.types import Grade, Group
from reward_server.schema import GraderName, ScoreItem, ScoreReply, ScoreRequest, describe_problems

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
# A server that fails is named in the log no more often than this.
_WARNING_SECONDS = 60.0

_logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class RewardClient:
    """Sends groups of responses to reward servers from a thread of its own.

    Groups go to the servers in turn, and the servers cover for each other: when one cannot answer, the next is asked at
    once. Retries are safe, because grading changes nothing on a server. Methods may be called from any thread; only
    `close` must not run at the same time as another call. The environment variable OPENR1_REWARD_TOKEN may hold a
    bearer token, which goes to every server.

    Args:
        urls: Address of the server, `http://host:port`, or a list of several.
        deadline_seconds: Time for one group, all attempts together, counted from when it leaves the queue. Of n
            servers, one that keeps silent is given up for the next after an n-th of this time.
        ready_timeout_seconds: How long `wait_until_ready` waits.
        max_concurrency: Requests in flight at most, over all servers; further groups queue.

    Raises:
        ConfigError: There is no URL, one is not that of an HTTP server, or no header can carry the token.
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
        self._quiet_until: dict[str, float] = {}
        self._versions: dict[str, list[str]] = {}
        self._deadline_seconds = deadline_seconds
        self._ready_timeout_seconds = ready_timeout_seconds
        self._slots = asyncio.Semaphore(max_concurrency)
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
        """Block until every server says that it grades correctly; one alone would hide a mistyped address.

        Raises:
            RewardServerUnavailable: Some did not within `ready_timeout_seconds`; the message names each of them.
            ConfigError: A server refused the token.
        """
        asyncio.run_coroutine_threadsafe(self._wait_until_ready(), self._loop).result()

    def submit(self, group: Group) -> concurrent.futures.Future[list[Grade]]:
        """Have a group graded; returns at once. The result holds one score a response, in their order.

        An item that the server could not grade is a `Grade` without reward, never one of 0. The future raises

        - RewardServerUnavailable: no usable answer came within the deadline, over all attempts;
        - RewardProtocolError: a server refused the request, or its answer does not fit what was asked;
        - ConfigError: a server refused the token.

        Raises:
            ConfigError: The prompt holds something that JSON cannot carry.
        """
        return asyncio.run_coroutine_threadsafe(
            self._score(ScoreRequest(task=group.prompt.task, items=to_items(group))), self._loop
        )

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
        await self._http.close()

    async def _wait_until_ready(self) -> None:
        async def complaint_about(url: str) -> str | None:
            try:
                return await self._repeat(self._http.require_ready, [url], self._ready_timeout_seconds, "was not ready")
            except RewardServerUnavailable as error:
                return str(error)

        complaints = await asyncio.gather(*map(complaint_about, self._urls))
        if any(complaints):
            raise RewardServerUnavailable("; ".join(filter(None, complaints)))

    async def _score(self, request: ScoreRequest) -> list[Grade]:
        payload = request.model_dump_json().encode()
        ids = [item.id for item in request.items]
        async with self._slots:
            turn = next(self._turns) % len(self._urls)
            urls = self._urls[turn:] + self._urls[:turn]

            async def ask(url: str) -> list[Grade]:
                # The last of a round may use all the time that is left: nobody is kept waiting for it.
                limit = None if url == urls[-1] else self._deadline_seconds / len(urls)
                return self._read_scores(url, await self._ask_score(url, payload, limit), ids)

            return await self._repeat(ask, urls, self._deadline_seconds, "did not answer")

    async def _ask_score(self, url: str, payload: bytes, seconds: float | None) -> bytes:
        """One attempt at one server. A failure goes to the log: what another server covers for would go unnoticed."""
        try:
            async with asyncio.timeout(seconds):
                return await self._http.get_score(url, payload)
        except TimeoutError:
            failure = NotYet(f"no answer within {seconds:g} s")
        except NotYet as caught:
            failure = caught
        if self._loop.time() >= self._quiet_until.get(url, 0.0):
            self._quiet_until[url] = self._loop.time() + _WARNING_SECONDS
            _logger.warning("reward server %s failed and is asked again, or the next one is: %s", url, failure)
        raise failure

    async def _repeat(
        self, ask: Callable[[str], Awaitable[_Answer]], urls: list[str], timeout_seconds: float, complaint: str
    ) -> _Answer:
        """Call `ask` with one URL after the other, round after round, until it returns.

        There are pauses after rounds only. They double from 0.1 to 5 s, shortened at random to spread the load, and
        are no shorter than the shortest that a server of the round asked for.

        Raises:
            RewardServerUnavailable: Time is up.
        """
        attempts = dict.fromkeys(urls, 0)
        last_failures = dict.fromkeys(urls, "none, it just keeps silent")
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    asked_pauses = []
                    for url in urls:
                        attempts[url] += 1
                        try:
                            return await ask(url)
                        except NotYet as failure:
                            last_failures[url] = str(failure)
                            asked_pauses.append(failure.retry_after)
                    await asyncio.sleep(max(_backoff_seconds(attempts[urls[0]]), min(asked_pauses)))
        except TimeoutError as error:
            failed = [
                f"reward server {url} {complaint} within {timeout_seconds:g} s "
                f"(attempts: {attempts[url]}, last failure: {last_failures[url]}); {self._hints[url]}"
                for url in urls
            ]
            raise RewardServerUnavailable("; ".join(failed)) from error

    def _read_scores(self, url: str, body: bytes, ids: list[str]) -> list[Grade]:
        """The scores of an answer, which must hold one result for each of `ids`, in their order."""
        try:
            reply = ScoreReply.model_validate_json(body)
        except ValidationError as error:
            # Not chained: pydantic's own text repeats what the server sent, which may be the token.
            raise self._unusable(url, describe_problems(error.errors()), body) from None
        results = reply.results
        if len(results) != len(ids):
            raise self._unusable(url, f"{len(results)} results for {len(ids)} items", body)
        for index, (result, expected) in enumerate(zip(results, ids, strict=True)):
            if result.id != expected:
                raise self._unusable(url, f"result {index} has the id {result.id!r} instead of {expected!r}", body)
        self._note_version(url, reply.grader)
        return [
            Grade(result.reward, result.score, result.components, result.verdict, result.error) for result in results
        ]

    def _note_version(self, url: str, grader: GraderName) -> None:
        """Warn, once for each, of a version that is not the first: the same response may now get another reward."""
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
    """Runs on the client's event loop."""
    return RewardHttp(token)


def to_items(group: Group) -> list[ScoreItem]:
    """What a group's responses are graded by, one item each.

    Raises:
        ConfigError: The prompt holds something that JSON cannot carry.
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
