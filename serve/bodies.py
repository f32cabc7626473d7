"""Bodies of requests, read and checked by hand: every one that is wrong is told so in the form of the API."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from vigc.serve.errors import ApiError, invalid, too_large, wrong
from vigc.serve.rows import VigcRequest

Body = TypeVar("Body", bound=BaseModel)


def content_type(http: Request) -> str:
    return http.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read(http: Request, what: type[Body]) -> Body:
    """A JSON body.

    Raises:
        ApiError: it is of another type, or not as the model wants it.
    """
    if content_type(http) not in ("application/json", ""):
        raise ApiError(415, "The body must be application/json.", code="unsupported_media_type")
    return parsed(await http.body(), what)


def parsed(body: bytes, what: type[Body]) -> Body:
    try:
        return what.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from error


async def read_form(http: Request) -> tuple[VigcRequest, tuple[bytes, str] | None]:
    """A form with the fields of a VigcRequest, lists as JSON or with commas; and bytes and name of the picture's file,
    where it is one.

    Raises:
        ApiError, MultiPartException: it is no such form.
    """
    async with http.form(max_files=1, max_fields=32, max_part_size=2**20) as form:
        values: dict[str, Any] = {}
        upload: UploadFile | None = None
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "image":
                    raise wrong("The picture's field is called image.", name)
                upload, values[name] = value, "upload"
            else:
                values[name] = _field(name, value)
        try:
            request = VigcRequest.model_validate(values)
        except ValidationError as error:
            raise invalid(error) from error
        return request, None if upload is None else (await upload.read(), upload.filename or "")


async def read_lines(http: Request, most: int) -> list[bytes]:
    """The lines of a batch, empty ones left out."""
    lines = [line for line in (await http.body()).split(b"\n") if line.strip()]
    if len(lines) > most:
        raise too_large(f"The batch has {len(lines)} lines; at most {most} are taken.")
    return lines


def _field(name: str, text: str) -> Any:
    if name == "kinds" and not text.lstrip().startswith("["):
        return [kind.strip() for kind in text.split(",")]
    if name in ("kinds", "objects", "captions"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise wrong(f"{name} must be JSON.", name) from error
    return text
