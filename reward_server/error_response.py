"""Error responses of the middleware, which answers before the application is reached."""

from starlette.responses import JSONResponse

RETRY_AFTER = {"retry-after": "1"}
"""Header for overload that is likely to pass: the client should retry after one second."""


def error_response(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error response with the body `{"detail": ...}`.

    It closes the connection, because the rest of the request's body may not have been read.
    """
    return JSONResponse({"detail": detail}, status, headers={"connection": "close", **(headers or {})})
