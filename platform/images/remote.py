"""Bytes from elsewhere, for `fetch`: S3, Google Cloud Storage and the web. What may pass is tried again, and a dead web
server holds an image for half a minute at most.
"""

from __future__ import annotations

import io
import os
import re
import time
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vigc import __version__
from vigc.platform.images.refused import NUM_THREADS, Refused, Reserve, check_part, check_size, scheme_of
from vigc.platform.records import StoreError

if TYPE_CHECKING:
    import urllib3
    from pyarrow import NativeFile

HTTP_PATIENCE_S = 18  # no attempt begins later; with the last one's timeouts, or a last wait, a dead host costs 31 s
HTTP_CONNECT_S, HTTP_READ_S = 5, 8
MAX_RETRY_AFTER_S = 10.0
MAX_REDIRECTS = 5
MIN_BYTES_PER_S = 20_000  # from an answer that takes longer than HTTP_PATIENCE_S

_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_STATUS_KINDS = {401: "permission", 403: "permission", 404: "missing", 410: "missing", 416: "truncated"}
_S3_KINDS = {
    **dict.fromkeys(("AccessDenied", "403", "AllAccessDisabled", "InvalidObjectState"), "permission"),
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"), "permission"),
    **dict.fromkeys(("NoSuchBucket", "404"), "missing"),
    "InvalidRange": "truncated",
}


def from_s3(address: str, part: tuple[int, int] | None, reserve: Reserve) -> bytes:
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    from vigc.platform.storage.retry import patience_s
    from vigc.platform.storage.s3 import call, patient_client

    bucket, _, key = address.partition("://")[2].partition("/")
    span = {"Range": _range(part)} if part else {}

    def attempt() -> bytes:
        found = patient_client().get_object(Bucket=bucket, Key=key, **span)
        with found["Body"] as body:
            check_size(found["ContentLength"])
            reserve(found["ContentLength"])
            data: bytes = body.read()
        return data

    try:
        data = call(attempt, address, patience_s())
    except FileNotFoundError as error:
        raise Refused("missing", str(error)) from error
    except StoreError as error:
        cause = error.__cause__
        kind = "permission" if isinstance(cause, NoCredentialsError | PartialCredentialsError) else "unreadable"
        if isinstance(cause, ClientError):
            kind = _S3_KINDS.get(str(cause.response.get("Error", {}).get("Code")), kind)
        raise Refused(kind, str(error)) from error
    return _whole(address, part, data)


def from_gcs(address: str, part: tuple[int, int] | None, reserve: Reserve) -> bytes:
    try:
        with object_file(address) as file:
            size = file.size()
            offset, wanted = part or (0, size)
            check_size(wanted)
            check_part(address, offset, wanted, size)
            reserve(wanted)
            data: bytes = file.read_at(wanted, offset)
            return data
    except FileNotFoundError as error:
        raise Refused("missing", f"no file at {address}") from error
    except OSError as error:
        is_denied = re.search(r"permission|forbidden|unauthenticated|\b40[13]\b", str(error), re.IGNORECASE)
        raise Refused("permission" if is_denied else "unreadable", f"{address}: {error}") from error


def object_file(address: str) -> NativeFile:
    """An object as a file that can be read anywhere in it."""
    if scheme_of(address) == "hf":
        from vigc.platform.sources.hub import HubFolder

        folder, _, name = address.rpartition("/")
        return HubFolder(folder).arrow.open_input_file(name)
    bucket, _, key = address.partition("://")[2].partition("/")
    if scheme_of(address) == "s3":
        from vigc.platform.storage.s3 import S3Folder

        return S3Folder(f"s3://{bucket}").arrow.open_input_file(key)
    from vigc.platform.storage.gcs import GcsFolder

    return GcsFolder(f"gs://{bucket}").arrow.open_input_file(key)


def _range(part: tuple[int, int]) -> str:
    return f"bytes={part[0]}-{part[0] + part[1] - 1}"


def _whole(address: str, part: tuple[int, int] | None, data: bytes) -> bytes:
    if part and len(data) != part[1]:
        raise Refused("truncated", f"{address} ends before byte {sum(part)}, where the image would")
    return data


class _Passing(Exception):
    """A fault that may be gone at the next attempt."""


def from_web(address: str, part: tuple[int, int] | None, reserve: Reserve) -> bytes:
    from vigc.platform.storage.retry import retry

    give_up = time.monotonic() + HTTP_PATIENCE_S
    last: _Passing | None = None

    def attempt() -> bytes:
        nonlocal last
        if last and time.monotonic() > give_up:  # the last wait was a long one
            raise last
        try:
            return _request(address, part, reserve, give_up)
        except _Passing as error:
            last = error
            raise

    try:
        data = retry(attempt, lambda error: isinstance(error, _Passing), for_s=HTTP_PATIENCE_S)
    except _Passing as error:
        raise Refused("unreadable", f"{address}: {error}, also after {HTTP_PATIENCE_S} s of trying again") from error
    return _whole(address, part, data)


def _request(address: str, part: tuple[int, int] | None, reserve: Reserve, give_up: float) -> bytes:
    from urllib3 import Retry, Timeout
    from urllib3.exceptions import HTTPError, MaxRetryError, ResponseError, SSLError

    headers = {"User-Agent": f"vigc/{__version__}"} | ({"Range": _range(part)} if part else {})
    try:
        response = _web(os.getpid(), _proxy(address)).request(
            "GET",
            address,
            headers=headers,
            preload_content=False,
            timeout=Timeout(connect=HTTP_CONNECT_S, read=HTTP_READ_S),
            retries=Retry(total=None, connect=0, read=0, status=0, other=0, redirect=MAX_REDIRECTS),
        )
        try:
            _check_status(response, address, part, give_up)
            return _body(response, reserve, give_up)
        finally:
            response.close()
    except HTTPError as error:
        reason = (error.reason if isinstance(error, MaxRetryError) else None) or error
        lasting = isinstance(reason, ResponseError) or (isinstance(reason, SSLError) and "CERTIFICATE" in str(reason))
        if lasting or isinstance(reason, ValueError):  # too many redirects, a false certificate, no URL
            raise Refused("unreadable", f"{address}: {reason}") from error
        raise _Passing(f"{type(reason).__name__} ({reason})") from error


def _check_status(
    response: urllib3.BaseHTTPResponse, address: str, part: tuple[int, int] | None, give_up: float
) -> None:
    status = response.status
    if status in _PASSING_STATUS:
        time.sleep(max(0.0, min(_retry_after_s(response), MAX_RETRY_AFTER_S, give_up - time.monotonic())))
        raise _Passing(f"HTTP status {status}")
    if part and status == 200:
        raise Refused("unreadable", f"{address}: the server sends whole files only, and this is a part of one")
    if status not in (200, 206):
        raise Refused(_STATUS_KINDS.get(status, "unreadable"), f"{address}: HTTP status {status}")


def _retry_after_s(response: urllib3.BaseHTTPResponse) -> float:
    from urllib3 import Retry
    from urllib3.exceptions import InvalidHeader

    try:
        return Retry().get_retry_after(response) or 0.0
    except InvalidHeader:
        return 0.0


def _body(response: urllib3.BaseHTTPResponse, reserve: Reserve, give_up: float) -> bytes:
    length = response.headers.get("Content-Length", "")
    if length.isdecimal():
        check_size(int(length))
        reserve(int(length))
    started, body = time.monotonic(), io.BytesIO()
    # `read1` returns what has come; `read` would let a server that sends a byte a second hold the row for hours.
    while chunk := response.read1(2**18):
        size = body.tell() + len(chunk)
        check_size(size)
        if not length:
            reserve(size)
        body.write(chunk)
        late_s = time.monotonic() - max(give_up, started + HTTP_READ_S)
        if late_s > 0 and size < MIN_BYTES_PER_S * (time.monotonic() - started):
            raise _Passing(f"only {size} bytes came in {time.monotonic() - started:.0f} s")
    return body.getvalue()


def _proxy(address: str) -> str | None:
    """The proxy that the usual variables name: HTTP_PROXY, HTTPS_PROXY, NO_PROXY."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(address)
    proxy = getproxies().get(parts.scheme.lower())
    return proxy if proxy and not proxy_bypass(parts.netloc) else None


@cache
def _web(pid: int, proxy: str | None) -> urllib3.PoolManager:
    import urllib3

    if proxy:
        return urllib3.ProxyManager(proxy, num_pools=NUM_THREADS, maxsize=NUM_THREADS)
    return urllib3.PoolManager(num_pools=NUM_THREADS, maxsize=NUM_THREADS)
