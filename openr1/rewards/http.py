"""One HTTP request to a reward server: the bearer token, the cap on answers, and what each failure is called."""

import io
import os
from urllib.parse import urlsplit

import aiohttp

from openr1.errors import ConfigError, RewardProtocolError
from reward_server.schema import TOKEN_VARIABLE

_MAX_ANSWER_BYTES = 16 * 2**20
_EXCERPT_CHARS = 200
_CONNECT_SECONDS = 5.0
_RETRIED_STATUS = frozenset({408, 429, *range(500, 600)})
# A compressed answer could be far larger than what arrives, which would get around the cap above.
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class NotYet(Exception):
    """An attempt failed in a way that may pass; `retry_after` is the pause in seconds that the server asked for."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RewardHttp:
    """Sends single requests; who waits how long is up to the caller. All methods raise

    - NotYet: asking again, here or elsewhere, may help;
    - RewardProtocolError: the server refused the request, or its answer is too large;
    - ConfigError: the server refused the token.
    """

    def __init__(self, token: str | None) -> None:
        """Open the session; call it on the event loop that will use it."""
        self._token = token
        authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        # No limits beyond that on connecting: the caller bounds both the requests and their time.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            headers=_HEADERS | authorization,
            auto_decompress=False,
        )

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()

    async def require_ready(self, url: str) -> None:
        """Return if the server says that it grades correctly."""
        status, _, body = await self._exchange("GET", url, "/ready", None)
        if status != 200:
            raise NotYet(f"/ready answered {status}: {self.excerpt(body)}")

    async def get_score(self, url: str, payload: bytes) -> bytes:
        """Have a request graded; returns the body of the answer."""
        status, retry_after, body = await self._exchange("POST", url, "/get_score", payload)
        if status in _RETRIED_STATUS:
            raise NotYet(f"/get_score answered {status}: {self.excerpt(body)}", retry_after)
        if status != 200:
            raise RewardProtocolError(f"reward server {url}/get_score answered {status}: {self.excerpt(body)}")
        return body

    def excerpt(self, body: bytes) -> str:
        """The beginning of a body, printable, on one line, without the token: some servers repeat what they got."""
        if self._token is not None:
            body = body.replace(self._token.encode(), b"***")
        return repr(body[:_EXCERPT_CHARS].decode(errors="replace"))

    async def _exchange(self, method: str, url: str, path: str, payload: bytes | None) -> tuple[int, float, bytes]:
        """Returns the status, the pause in seconds that the server asks for (0: none), and the body."""
        # A file object, because aiohttp sends it in pieces; large bytes would block the loop.
        data = None if payload is None else io.BytesIO(payload)
        try:
            async with self._session.request(method, url + path, data=data, allow_redirects=False) as response:
                if response.status == 401:
                    raise ConfigError(f"reward server {url}{path} answered 401: {self._explain_refusal()}")
                return response.status, _retry_after_seconds(response), await self._read_capped(url, response)
        except aiohttp.ClientError as error:
            raise NotYet(f"{type(error).__name__}: {error}") from error

    def _explain_refusal(self) -> str:
        if self._token is None:
            return f"it asks for a token; set the environment variable {TOKEN_VARIABLE} to the server's"
        return f"it refuses the token in the environment variable {TOKEN_VARIABLE}; set the same here as for the server"

    async def _read_capped(self, url: str, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _MAX_ANSWER_BYTES:
                raise RewardProtocolError(
                    f"reward server {url} answered more than {_MAX_ANSWER_BYTES} bytes, "
                    f"which begin {self.excerpt(bytes(body))}"
                )
        return bytes(body)


def read_token() -> str | None:
    """The token in the environment, if there is one.

    Raises:
        ConfigError: No header can carry it.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ConfigError(
            f"the environment variable {TOKEN_VARIABLE} holds a line break or another character that no header carries"
        )
    return token


def port_of(url: str) -> int:
    """Port of an HTTP address, its scheme's own where none is written.

    Raises:
        ConfigError: It is no HTTP address, or it holds a password, which would get into messages.
    """
    if "@" in url:
        raise ConfigError(f"reward server URL: no user or password may stand in it; {TOKEN_VARIABLE} is for secrets")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"reward server URL {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"reward server URL {url!r} must look like http://127.0.0.1:5000")
    return port or {"http": 80, "https": 443}[parts.scheme]


def _retry_after_seconds(response: aiohttp.ClientResponse) -> float:
    """Value of `Retry-After` in seconds. Its other form, a date, depends on two clocks and is not honoured: 0."""
    value: str = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
