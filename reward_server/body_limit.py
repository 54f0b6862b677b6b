"""ASGI middleware that refuses requests whose bodies are too large or too slow, before the application sees them."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_server.config import ServerConfig
from reward_server.error_response import RETRY_AFTER, error_response


class _Rejected(Exception):
    def __init__(self, response: JSONResponse) -> None:
        super().__init__()
        self.response = response


class BodyLimitMiddleware:
    """Collects the body of each request and hands it on in one piece, within the limits of the config.

    The bytes that arrive are counted, because a chunked request announces no length.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config
        self._buffered_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 408, 413 or 429. A client that leaves in its body gets no answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            await self._collect(body, receive)
            await self._app(scope, _replay(bytes(body), receive), send)
        except _Rejected as rejected:
            await rejected.response(scope, receive, send)
        except ClientDisconnect:
            return
        finally:
            self._buffered_bytes -= len(body)

    async def _collect(self, body: bytearray, receive: Receive) -> None:
        """Fill `body`. Of one that is too large, as much again is read and dropped.

        Whoever is still sending when the connection closes often never sees the answer.
        """
        limit, seconds = self._config.max_body_bytes, self._config.body_seconds
        received = 0
        more = True
        try:
            async with asyncio.timeout(seconds):
                while more and received <= 2 * limit:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    chunk = message.get("body", b"")
                    received += len(chunk)
                    if received <= limit:
                        self._take(body, chunk)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise _Rejected(error_response(408, f"the body took more than {seconds:g} s to arrive")) from None
        if received > limit:
            raise _Rejected(error_response(413, f"the body is larger than {limit} bytes"))

    def _take(self, body: bytearray, chunk: bytes) -> None:
        body += chunk
        self._buffered_bytes += len(chunk)
        if self._buffered_bytes > self._config.max_total_body_bytes:
            detail = f"the requests in flight hold {self._config.max_total_body_bytes} bytes, which is the limit"
            raise _Rejected(error_response(429, detail, RETRY_AFTER))


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that yields the collected body once, and then whatever comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
