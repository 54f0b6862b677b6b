"""Single HTTP requests to a reward server: authentication, the size limit of answers, and the mapping of errors."""

import asyncio
import io
import json
import os
from urllib.parse import urlsplit

import aiohttp

from openr1.errors import ConfigError, RewardProtocolError
from reward_server.schema import TOKEN_VARIABLE

_MAX_ANSWER_BYTES = 16 * 2**20
_EXCERPT_CHARS = 200
_CONNECT_SECONDS = 5.0
_TASKS_SECONDS = 10.0
_RETRIED_STATUS = frozenset({408, 429, *range(500, 600)})
# No compression: a small compressed body could expand far beyond the size limit above.
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class RetryableError(Exception):
    """A transient failure; the request may be retried. `retry_after`: pause in seconds that the server asked for."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RewardHttp:
    """Sends single requests; timeouts are up to the caller. All methods raise

    - RetryableError: a transient failure; retrying, on this server or another, may help;
    - RewardProtocolError: the server rejected the request, or its answer is too large;
    - ConfigError: the server rejected the token.
    """

    def __init__(self, token: str | None) -> None:
        """Open the session; call it on the event loop that will use it."""
        self._token = token
        authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        # Only connecting is limited here: the caller bounds the number of requests and their total time.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            headers=_HEADERS | authorization,
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def require_ready(self, url: str) -> None:
        """Return if `GET /ready` reports that the server's self-test passed."""
        status, _, body = await self._exchange("GET", url, "/ready", None)
        if status != 200:
            raise RetryableError(f"/ready answered {status}: {self.excerpt(body)}")

    async def tasks(self, url: str) -> frozenset[str] | None:
        """Names of the tasks that `GET /tasks` lists; None from a server without this route, or that is too slow."""
        try:
            async with asyncio.timeout(_TASKS_SECONDS):
                status, _, body = await self._exchange("GET", url, "/tasks", None)
            tasks = json.loads(body) if status == 200 else None
        except (RetryableError, TimeoutError, ValueError):
            return None
        return frozenset(tasks) if isinstance(tasks, dict) else None

    async def get_score(self, url: str, payload: bytes) -> bytes:
        """`POST /get_score`; returns the body of the answer."""
        status, retry_after, body = await self._exchange("POST", url, "/get_score", payload)
        if status in _RETRIED_STATUS:
            raise RetryableError(f"/get_score answered {status}: {self.excerpt(body)}", retry_after)
        if status != 200:
            raise RewardProtocolError(f"reward server {url}/get_score answered {status}: {self.excerpt(body)}")
        return body

    def excerpt(self, body: bytes) -> str:
        """The beginning of a body for messages: printable, on one line, with the token masked in case it is echoed."""
        if self._token is not None:
            body = body.replace(self._token.encode(), b"***")
        return repr(body[:_EXCERPT_CHARS].decode(errors="replace"))

    async def _exchange(self, method: str, url: str, path: str, payload: bytes | None) -> tuple[int, float, bytes]:
        """Returns the status, the value of `Retry-After` in seconds (0 if absent), and the body."""
        # A file object, because aiohttp sends it in chunks; sending a large bytes object would block the event loop.
        data = None if payload is None else io.BytesIO(payload)
        try:
            async with self._session.request(method, url + path, data=data, allow_redirects=False) as response:
                if response.status == 401:
                    raise ConfigError(f"reward server {url}{path} answered 401: {self._explain_refusal()}")
                return response.status, _retry_after_seconds(response), await self._read_capped(url, response)
        except aiohttp.ClientError as error:
            raise RetryableError(f"{type(error).__name__}: {error}") from error

    def _explain_refusal(self) -> str:
        if self._token is None:
            return f"it requires a token; set the environment variable {TOKEN_VARIABLE} to the server's"
        return f"it rejected the token; set the environment variable {TOKEN_VARIABLE} to the same value as the server's"

    async def _read_capped(self, url: str, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _MAX_ANSWER_BYTES:
                raise RewardProtocolError(
                    f"reward server {url} answered more than {_MAX_ANSWER_BYTES} bytes; "
                    f"the answer begins {self.excerpt(bytes(body))}"
                )
        return bytes(body)


def read_token() -> str | None:
    """Read the bearer token from the environment; None if it is unset or empty.

    Raises:
        ConfigError: It contains characters that are not allowed in an HTTP header.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ConfigError(
            f"the environment variable {TOKEN_VARIABLE} contains a character that is not allowed in an HTTP header, "
            "such as a line break; set it to printable ASCII"
        )
    return token


def port_of(url: str) -> int:
    """Port of an HTTP address, or the default port of its scheme.

    Raises:
        ConfigError: It is not an HTTP address, or it contains a password, which would end up in messages.
    """
    if "@" in url:
        raise ConfigError(f"reward server URL: no user or password is allowed; put the secret into {TOKEN_VARIABLE}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"reward server URL {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"reward server URL {url!r} must have the form http://127.0.0.1:5000")
    return port or {"http": 80, "https": 443}[parts.scheme]


def _retry_after_seconds(response: aiohttp.ClientResponse) -> float:
    """Value of `Retry-After` in seconds. The date form is ignored (0), since it depends on two clocks."""
    value: str = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
