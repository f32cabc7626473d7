"""What goes wrong with a request, in the format of OpenAI's API: {"error": {message, type, param, code}}.

Code raises ApiError wherever it is; `as_response` makes the answer of it and of whatever else was raised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

INVALID, DENIED, SERVER = "invalid_request_error", "authentication_error", "server_error"
RETRY_AFTER_S = 1
_CODES = {404: "not_found", 405: "method_not_allowed"}


class ErrorBody(BaseModel):
    """The members of OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorBody


# For the OpenAPI document of every route.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "model": ErrorAnswer,
        "description": "The request cannot be answered as it is. 400: a value is wrong. 401: a key is needed, or is "
        "not known. 404: there is no such thing here. 408: the body did not arrive in time. 413: too many bytes or "
        "pixels. 415: the body has another type.",
    },
    "5XX": {
        "model": ErrorAnswer,
        "description": "The service cannot answer now. 500: it failed, and its log has the reason. 502: the server "
        "of the model refuses. 503: the queue is full, or no replica or server of the model answers; Retry-After says "
        "when to try again. 504: the answer took too long.",
    },
}


class ApiError(HTTPException):
    """Raised anywhere while a request is answered; becomes the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        type_: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        headers = None if retry_after_s is None else {"Retry-After": str(math.ceil(retry_after_s))}
        super().__init__(status, message, headers)
        type_ = type_ or (SERVER if status >= 500 else INVALID)
        self.body = ErrorBody(message=message, type=type_, param=param, code=code)

    def __str__(self) -> str:
        return self.body.message

    @property
    def content(self) -> dict[str, Any]:
        return {"error": self.body.model_dump()}

    def response(self) -> JSONResponse:
        return JSONResponse(self.content, self.status_code, self.headers)


async def as_response(http: Request, error: Exception) -> JSONResponse:
    """The answer to a request that raised this; the one exception handler of the application."""
    match error:
        case ApiError():
            http.state.log = {**getattr(http.state, "log", {}), "outcome": error.body.code}
            return error.response()
        case RequestValidationError():
            return invalid(error.errors()).response()
        case StarletteHTTPException():
            code = _CODES.get(error.status_code, "invalid_request")
            response = ApiError(error.status_code, str(error.detail), code=code).response()
            response.headers.update(error.headers or {})
            return response
        case _:
            return internal().response()


def wrong(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)


def too_large(message: str) -> ApiError:
    return ApiError(413, message, code="request_too_large")


def too_slow(message: str) -> ApiError:
    return ApiError(408, message, code="request_timeout")


def overloaded() -> ApiError:
    return ApiError(
        503, "All replicas are busy and the queue is full. Try again.", code="overloaded", retry_after_s=RETRY_AFTER_S
    )


def unavailable(message: str) -> ApiError:
    return ApiError(503, message, code="unavailable", retry_after_s=RETRY_AFTER_S)


def refused(message: str) -> ApiError:
    """The server behind this one refuses; to ask again is of no use until somebody has looked at the settings."""
    return ApiError(502, message, code="model_refused")


def internal() -> ApiError:
    """A fault of the service. The client learns no more; the log has the reason."""
    return ApiError(500, "The service failed; its log has the reason.", code="internal_error")


def invalid(problems: Sequence[Any]) -> ApiError:
    """The first problem that pydantic found in a body, in words. The value that was sent is not repeated.

    Args:
        problems: as `ValidationError.errors()` gives them, or FastAPI's, whose places begin with "body".
    """
    first = problems[0]
    is_json = first["type"] != "json_invalid"
    # Without FastAPI's "body" and its number of a character, and without pydantic's names of a union's branches.
    parts = [str(part) for part in first["loc"] if part != "body" and (is_json or isinstance(part, str))]
    place = ".".join(part for part in parts if "[" not in part)
    message = first["msg"] if is_json else f"Invalid JSON: {first['ctx']['error']}"
    more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return wrong(f"{place or 'The body is wrong'}: {message}{more}", place or None, str(first["type"]))
