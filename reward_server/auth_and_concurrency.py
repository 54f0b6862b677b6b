"""ASGI middleware in front of everything: who may come in, how many at a time, and what is counted."""

import asyncio
import hmac
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_server.error_response import RETRY_AFTER, error_response
from reward_server.metrics import Metrics

UNAUTHENTICATED_ROUTES = frozenset({"/health"})
"""Answered without a token: a load balancer asks for it."""


class AuthAndConcurrencyMiddleware:
    """Asks for the bearer token, bounds the requests in flight, and measures them."""

    def __init__(self, app: ASGIApp, token: str | None, max_requests: int, metrics: Metrics) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._max_requests = max_requests
        self._metrics = metrics
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 or 429. What is only asked (GET) is never too much."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        statuses: list[int] = []

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        grading = scope["method"] == "POST"
        self._in_flight += grading
        self._metrics.in_flight.set(self._in_flight)
        try:
            await self._admit(scope, receive, watched)
        except asyncio.CancelledError:
            # The server ends. What had no answer by then would get a 500, which blames the request.
            if not statuses:
                await error_response(503, "the server is shutting down", RETRY_AFTER)(scope, receive, watched)
            raise
        finally:
            self._in_flight -= grading
            self._metrics.in_flight.set(self._in_flight)
            # The framework notes the route that matched; anything else would let callers invent metrics.
            route = scope.get("route")
            path = route.path if route is not None else "other"
            self._metrics.requests.labels(path, str(statuses[0] if statuses else 499)).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_authorized(scope):
            detail = "the header authorization must be: Bearer <token>"
            await error_response(401, detail, {"www-authenticate": "Bearer"})(scope, receive, send)
        elif self._in_flight > self._max_requests:
            detail = f"{self._max_requests} requests are being graded, which is the limit"
            await error_response(429, detail, RETRY_AFTER)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        if self._expected is None or scope["path"] in UNAUTHENTICATED_ROUTES:
            return True
        sent = Headers(scope=scope).get("authorization", "").encode("utf-8", "replace")
        return hmac.compare_digest(sent, self._expected)
