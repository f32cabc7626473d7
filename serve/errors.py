"""What goes wrong with a request, in the form of OpenAI's API: {"error": {message, type, param, code}}."""

from __future__ import annotations

import math
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

INVALID, DENIED, SERVER = "invalid_request_error", "authentication_error", "server_error"
RETRY_AFTER_S = 1


class ErrorBody(BaseModel):
    """The members of OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorBody


class ApiError(Exception):
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
        super().__init__(message)
        self.status = status
        type_ = type_ or (SERVER if status >= 500 else INVALID)
        self.body = ErrorBody(message=message, type=type_, param=param, code=code)
        self.headers = {} if retry_after_s is None else {"Retry-After": str(math.ceil(retry_after_s))}

    @property
    def content(self) -> dict[str, Any]:
        return {"error": self.body.model_dump()}

    def response(self) -> JSONResponse:
        return JSONResponse(self.content, self.status, self.headers)


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


def internal() -> ApiError:
    """What is said of a fault of ours; the log has the rest."""
    return ApiError(500, "The service failed; its log has the reason.", code="internal_error")


def invalid(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a body, in words. What was sent is not repeated."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = found[0]
    place = ".".join(map(str, first["loc"]))
    more = f" ({len(found) - 1} more problems)" if len(found) > 1 else ""
    message = f"{place}: {first['msg']}{more}" if place else f"The body is wrong: {first['msg']}{more}"
    return wrong(message, place or None, str(first["type"]))
