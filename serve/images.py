"""Loads the image of a request: an uploaded file, a data URI, or one at an address."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass

from starlette.datastructures import UploadFile

from vigc.platform.images.decode import Decoded
from vigc.platform.images.uploads import UploadLimits, Uploads
from vigc.platform.records import ImageForm
from vigc.serve.errors import ApiError, wrong
from vigc.serve.settings import ServeSettings
from vigc.serve.web import WebImages

_DATA = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+-]+=[\w.+\"-]*)*;base64,", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RequestImage:
    """An image as it was found. One that could not be decoded has the reason."""

    uri: str  # its address, or the name of the uploaded file; "" where it has neither
    decoded: Decoded

    def check(self) -> None:
        """
        Raises:
            ApiError: it could not be decoded.
        """
        if self.decoded.error_kind is not None:
            raise ApiError(
                413 if self.decoded.error_kind == "too_large" else 400,
                f"The image cannot be used: {self.decoded.error_message}.",
                param="image",
                code=self.decoded.error_kind,
            )


class ImageLoader:
    """Finds images, and makes them into the form that the engine wants."""

    def __init__(self, settings: ServeSettings, form: ImageForm, web: WebImages | None = None) -> None:
        limits = UploadLimits(settings.max_upload_bytes, settings.max_pixels)
        self._uploads = Uploads(form, limits)
        self._web = web or WebImages(
            settings.allow_hosts, max_bytes=limits.max_bytes, timeout_s=settings.fetch_timeout_s
        )

    async def load(self, source: str | UploadFile) -> RequestImage:
        """
        Args:
            source: a file, a data URI or an http(s) address.
        Raises:
            ApiError: it is none of these, or may not be fetched.
        """
        uri = ""
        if isinstance(source, UploadFile):
            uri, data = source.filename or "", await source.read()
        elif source[:5].lower() == "data:":
            data = await asyncio.to_thread(_data_of, source)
        elif re.match(r"https?://", source, re.IGNORECASE):
            uri, data = source, await self._web.fetch(source)
        else:
            raise wrong("An image is a data URI (data:image/…;base64,…) or an http(s) address.", "image")
        return RequestImage(uri, await self._uploads.decode(data))

    def stop(self) -> None:
        self._uploads.stop()


def _data_of(uri: str) -> bytes:
    found = _DATA.match(uri)
    if found is None:
        raise wrong("A data URI of an image begins with data:image/…;base64,", "image")
    try:
        return base64.b64decode(uri[found.end() :].strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise wrong("The data URI is not valid base64.", "image") from error
