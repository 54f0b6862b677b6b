"""ASGI middleware that refuses a request whose body is too large, before the application sees any of it."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Collects the body of each request and hands it on in one piece, if it has at most `max_bytes`.

    The bytes that arrive are counted, because a chunked request announces no length. Of a larger body, as much again
    is read and dropped: whoever is still sending when the connection closes often never sees the answer.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413. A client that leaves in the middle of its body gets no answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        received = 0
        more = True
        while more and received <= 2 * self._max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunk = message.get("body", b"")
            received += len(chunk)
            if received <= self._max_bytes:
                body += chunk
            more = message.get("more_body", False)
        if received > self._max_bytes:
            await self._refuse(scope, receive, send)
        else:
            await self._app(scope, _replay(bytes(body), receive), send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What is left of the body stays unread, so the connection cannot carry another request.
        response = JSONResponse(
            {"detail": f"the body is larger than {self._max_bytes} bytes"}, 413, headers={"connection": "close"}
        )
        await response(scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that yields the collected body once, and then whatever comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
