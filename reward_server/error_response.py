"""How the middleware says no."""

from starlette.responses import JSONResponse

RETRY_AFTER = {"retry-after": "1"}
"""Not now: in a second there may be room."""


def error_response(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer in place of the application's. The connection ends with it: the body may be unread."""
    return JSONResponse({"detail": detail}, status, headers={"connection": "close", **(headers or {})})
