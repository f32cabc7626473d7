"""Where a request's picture comes from: an upload, a data URI, or an address."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass

from vigc.platform.images.decode import Decoded
from vigc.platform.images.uploads import UploadLimits, Uploads
from vigc.serve.errors import wrong
from vigc.serve.settings import ServeSettings
from vigc.serve.web import WebImages

_DATA = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+-]+=[\w.+\"-]*)*;base64,", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RequestImage:
    """A picture as it was found. One that could not be decoded says why."""

    uri: str  # its address, or the name of the uploaded file; "" where it has neither
    decoded: Decoded


class ImageLoader:
    """Finds and decodes them."""

    def __init__(self, settings: ServeSettings, image_size: int, web: WebImages | None = None) -> None:
        limits = UploadLimits(settings.max_upload_bytes, settings.max_pixels)
        self._uploads = Uploads(image_size, limits)
        self._web = web or WebImages(
            settings.allow_hosts, max_bytes=limits.max_bytes, timeout_s=settings.fetch_timeout_s
        )

    async def at(self, address: str) -> RequestImage:
        """The picture of a data URI or an http(s) address.

        Raises:
            ApiError: it is neither, or may not be fetched.
        """
        if address[:5].lower() == "data:":
            data = await asyncio.to_thread(_data_of, address)
            return await self.uploaded(data, "")
        if re.match(r"https?://", address, re.IGNORECASE):
            return await self.uploaded(await self._web.fetch(address), address)
        raise wrong("An image is a data URI (data:image/…;base64,…) or an http(s) address.", "image")

    async def uploaded(self, data: bytes, name: str) -> RequestImage:
        return RequestImage(name, await self._uploads.decode(data))

    def stop(self) -> None:
        self._uploads.stop()


def _data_of(uri: str) -> bytes:
    found = _DATA.match(uri)
    if found is None:
        raise wrong("A data URI of a picture begins with data:image/…;base64,", "image")
    try:
        return base64.b64decode(uri[found.end() :].strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise wrong("The data URI is not valid base64.", "image") from error
