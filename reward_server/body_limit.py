"""ASGI middleware that rejects request bodies that are too large or arrive too slowly."""

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
    """Buffers the body of each request, within the limits of the config, and passes it on in one message.

    Bytes are counted as they arrive: a request with chunked transfer encoding has no Content-Length to check.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config
        self._buffered_bytes = 0  # of all requests in flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer 408, 413 or 429. A client that disconnects in its body gets no response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            await self._buffer_body(body, receive)
            await self._app(scope, _replay(bytes(body), receive), send)
        except _Rejected as rejected:
            await rejected.response(scope, receive, send)
        except ClientDisconnect:
            return
        finally:
            self._buffered_bytes -= len(body)

    async def _buffer_body(self, body: bytearray, receive: Receive) -> None:
        """Read the request's body into `body`.

        Of a body that is too large, up to the same amount again is read and discarded before it is rejected: if the
        connection closed while the client is still sending, the client would often not see the response.
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
                        self._append(body, chunk)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise _Rejected(error_response(408, f"the body took more than {seconds:g} s to arrive")) from None
        if received > limit:
            raise _Rejected(error_response(413, f"the body is larger than {limit} bytes"))

    def _append(self, body: bytearray, chunk: bytes) -> None:
        body += chunk
        self._buffered_bytes += len(chunk)
        limit = self._config.max_total_body_bytes
        if self._buffered_bytes > limit:
            detail = f"the bodies of all requests in flight exceed {limit} bytes, which is the limit"
            raise _Rejected(error_response(429, detail, RETRY_AFTER))


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` callable that returns the buffered body once, and then forwards to the original one."""
    buffered: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return buffered.pop() if buffered else await receive()

    return replay
