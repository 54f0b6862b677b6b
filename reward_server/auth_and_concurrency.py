"""ASGI middleware in front of all routes: bearer-token authentication, a limit on concurrent requests, and metrics."""

import asyncio
import hmac
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_server.error_response import RETRY_AFTER, error_response
from reward_server.metrics import Metrics

UNAUTHENTICATED_ROUTES = frozenset({"/health"})
"""Routes that need no token: load balancers poll them."""


class AuthAndConcurrencyMiddleware:
    """Checks the bearer token, limits the number of POST requests in flight, and records metrics of every request."""

    def __init__(self, app: ASGIApp, token: str | None, max_requests: int, metrics: Metrics) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._max_requests = max_requests
        self._metrics = metrics
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer 401 (wrong token) or 429 (too many in flight).

        GET requests are cheap and never count towards the limit, so that probes and metrics work under full load.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        statuses: list[int] = []

        async def send_and_record_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        counts = scope["method"] == "POST"
        # Plain attributes are safe here: the event loop runs one request at a time between two awaits.
        self._in_flight += counts
        self._metrics.in_flight.set(self._in_flight)
        try:
            await self._check_and_forward(scope, receive, send_and_record_status)
        except asyncio.CancelledError:
            # The server is shutting down and its drain period is over. Without an answer from here, uvicorn would send
            # a 500, which blames the request; a 503 makes the client retry elsewhere.
            if not statuses:
                response = error_response(503, "the server is shutting down", RETRY_AFTER)
                await response(scope, receive, send_and_record_status)
            raise
        finally:
            self._in_flight -= counts
            self._metrics.in_flight.set(self._in_flight)
            # Label by the matched route, not by the requested path: callers could create unlimited label values.
            route = scope.get("route")
            path = route.path if route is not None else "other"
            # 499: the client disconnected before there was a response.
            self._metrics.requests.labels(path, str(statuses[0] if statuses else 499)).inc()
            self._metrics.request_seconds.labels(path).observe(time.monotonic() - start)

    async def _check_and_forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_authorized(scope):
            detail = "the header authorization must be: Bearer <token>"
            await error_response(401, detail, {"www-authenticate": "Bearer"})(scope, receive, send)
        elif self._in_flight > self._max_requests:
            detail = f"{self._max_requests} requests are in flight, which is the limit"
            await error_response(429, detail, RETRY_AFTER)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        if self._expected is None or scope["path"] in UNAUTHENTICATED_ROUTES:
            return True
        sent = Headers(scope=scope).get("authorization", "").encode("utf-8", "replace")
        # Constant-time comparison, so that response times do not leak how much of a guess is right.
        return hmac.compare_digest(sent, self._expected)
