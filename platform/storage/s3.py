"""A folder in S3, or in anything that speaks its language (AWS_ENDPOINT_URL).

boto3 reads, writes and lists, because its errors have names and it knows conditional writes; pyarrow reads Parquet.
Both take endpoint, region and credentials from the usual AWS variables, profiles and roles.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import botocore.exceptions as faults
from botocore.config import Config
from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem, SubTreeFileSystem

from vigc.platform.records import StoreError
from vigc.platform.storage.folder import Entry, Folder
from vigc.platform.storage.patience import patience_s, patiently

T = TypeVar("T")

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 3, 30
CHECK_S = 4.0  # how long the first contact is tried for, so that a wrong address is reported within 10 s
MAX_DELETED_AT_ONCE = 1000

# What waiting cannot mend, and how it can be mended.
_REMEDIES = {
    "AccessDenied": "the credentials may not do this. Check the key and the bucket's policy",
    "403": "access is denied. Check the key (AWS_ACCESS_KEY_ID, AWS_PROFILE) and the bucket's policy",
    "InvalidAccessKeyId": "no such access key. Check AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret key is wrong. Check AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    "ExpiredToken": "the credentials have expired. Get new ones",
    "InvalidToken": "the session token is wrong. Check AWS_SESSION_TOKEN",
    "NoSuchBucket": "there is no such bucket. Check its name, or create it",
    "404": "there is no such bucket. Check its name, or create it",
    "InvalidBucketName": "that is no name for a bucket. Check it",
    "PermanentRedirect": "the bucket is in another region. Set AWS_REGION",
    "301": "the bucket is in another region. Set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region. Set AWS_REGION",
}
# What may be gone next time: throttling, a server that restarts, two writers at the same moment.
_PASSING_CODES = frozenset(
    {
        *("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "RequestTimeTooSkewed"),
        *("Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimit"),
        *("OperationAborted", "ConditionalRequestConflict", "500", "502", "503", "504", "429"),
    }
)
_PASSING = (faults.HTTPClientError, faults.ConnectionError, faults.IncompleteReadError, faults.ResponseStreamingError)
_NO_CREDENTIALS = (faults.NoCredentialsError, faults.PartialCredentialsError, faults.ProfileNotFound)


class S3Folder(Folder):
    """Its `uri` is `s3://bucket` or `s3://bucket/prefix`."""

    @property
    def bucket(self) -> str:
        return self.uri.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """What the keys of its files begin with: "" or a path that ends with a slash."""
        path = self.uri.removeprefix("s3://").partition("/")[2]
        return f"{path}/" if path else ""

    @property
    def arrow(self) -> FileSystem:
        return SubTreeFileSystem(f"{self.bucket}/{self.prefix}".rstrip("/"), _arrow_s3(os.getpid()))

    def exists(self) -> bool:
        found = self._call("list_objects_v2", Prefix=self.prefix, MaxKeys=1)
        return bool(found.get("KeyCount"))

    def names(self, folder: str = "") -> list[str]:
        prefix = f"{self.prefix}{folder}/" if folder else self.prefix
        names: set[str] = set()
        for page in self._pages(Prefix=prefix, Delimiter="/"):
            names.update(found["Key"].removeprefix(prefix) for found in page.get("Contents", ()))
            names.update(found["Prefix"].removeprefix(prefix).rstrip("/") for found in page.get("CommonPrefixes", ()))
        return sorted(names - {""})

    def files(self, folder: str = "") -> list[Entry]:
        prefix = f"{self.prefix}{folder}/" if folder else self.prefix
        found = (content for page in self._pages(Prefix=prefix) for content in page.get("Contents", ()))
        entries = [Entry(content["Key"].removeprefix(self.prefix), content["Size"]) for content in found]
        return sorted((entry for entry in entries if not entry.name.endswith("/")), key=lambda entry: entry.name)

    def read(self, name: str) -> bytes:
        def attempt() -> bytes:
            found = client().get_object(Bucket=self.bucket, Key=self.prefix + name)
            data: bytes = found["Body"].read()
            return data

        return self._patiently(attempt, name)

    def write(self, name: str, data: bytes) -> None:
        self._call("put_object", name, Key=self.prefix + name, Body=data)

    def create(self, name: str, data: bytes) -> str | None:
        """Writes a file that is not there yet; its ETag, or None when somebody else's is there."""
        return self._conditional(name, data, IfNoneMatch="*")

    def replace(self, name: str, data: bytes, etag: str) -> str | None:
        """Writes a file that is still as it was read; its new ETag, or None when it has been changed since."""
        return self._conditional(name, data, IfMatch=etag)

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        """A file and its ETag. Raises FileNotFoundError where there is none."""

        def attempt() -> tuple[bytes, str]:
            found = client().get_object(Bucket=self.bucket, Key=self.prefix + name)
            return found["Body"].read(), found["ETag"]

        return self._patiently(attempt, name)

    def upload(self, name: str, path: Path) -> None:
        self._patiently(lambda: client().upload_file(str(path), self.bucket, self.prefix + name), name)

    def delete(self, *names: str) -> None:
        for start in range(0, len(names), MAX_DELETED_AT_ONCE):
            keys = [{"Key": self.prefix + name} for name in names[start : start + MAX_DELETED_AT_ONCE]]
            refused = self._call("delete_objects", Delete={"Objects": keys, "Quiet": True}).get("Errors", [])
            if refused:
                raise StoreError(f"s3://{self.bucket}/{refused[0]['Key']}: not deleted ({refused[0].get('Message')}).")

    def delete_all(self, folder: str = "") -> None:
        self.delete(*(entry.name for entry in self.files(folder)))

    def _conditional(self, name: str, data: bytes, **condition: str) -> str | None:
        try:
            done = self._call("put_object", name, Key=self.prefix + name, Body=data, **condition)
        except _Outdated:
            return None
        return str(done["ETag"])

    def _pages(self, **arguments: Any) -> list[dict[str, Any]]:
        def attempt() -> list[dict[str, Any]]:
            return list(client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **arguments))

        return self._patiently(attempt)

    def _call(self, method: str, name: str = "", **arguments: Any) -> dict[str, Any]:
        return self._patiently(lambda: getattr(client(), method)(Bucket=self.bucket, **arguments), name)

    def _patiently(self, attempt: Callable[[], T], name: str = "") -> T:
        return call(attempt, f"{self.uri}/{name}" if name else self.uri)


class _Outdated(Exception):
    """The condition of a conditional write does not hold."""


def call(attempt: Callable[[], T], address: str, *, for_s: float | None = None) -> T:
    """What `attempt` returns, with patience for what may pass.

    Raises:
        FileNotFoundError: there is no such key.
        StoreError: anything else that S3 refuses, or that did not pass in time.
    """
    try:
        return patiently(attempt, _may_pass, for_s=for_s)
    except faults.ClientError as error:
        raise _explained(error, address) from error
    except _NO_CREDENTIALS as error:
        raise StoreError(f"{address}: no credentials ({error}). Set AWS_ACCESS_KEY_ID or AWS_PROFILE.") from error
    except faults.BotoCoreError as error:
        raise StoreError(
            f"{address}: no answer from the storage for {patience_s() if for_s is None else for_s:.0f} s ({error}). "
            "Check AWS_ENDPOINT_URL and the network; what is committed stays, and the same command goes on from there."
        ) from error


def check_bucket(bucket: str) -> None:
    """Raises StoreError, soon, when the bucket is not there, may not be used or cannot be reached."""
    key = (os.getpid(), bucket)
    if key in _checked:
        return
    # Asked for a list and not with HEAD, whose answers have no body that could say what is wrong.
    call(lambda: client().list_objects_v2(Bucket=bucket, MaxKeys=1), f"s3://{bucket}", for_s=CHECK_S)
    _checked.add(key)


_checked: set[tuple[int, str]] = set()


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, faults.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return _code(error) in _PASSING_CODES or status >= 500
    return isinstance(error, _PASSING)


def _explained(error: faults.ClientError, address: str) -> Exception:
    code = _code(error)
    if code == "NoSuchKey":
        return FileNotFoundError(f"{address}: there is no such file")
    if code in ("PreconditionFailed", "412"):
        return _Outdated(address)
    remedy = _REMEDIES.get(code, f"the storage refused ({error})")
    return StoreError(f"{address}: {remedy}.")


def _code(error: faults.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def client() -> Any:
    """This process's connection to S3; safe to share among its threads."""
    with _making:
        return _client(os.getpid())


_making = threading.Lock()


@cache
def _client(pid: int) -> Any:
    import boto3

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": 1},  # trying again is done here, for everything alike
        max_pool_connections=32,
    )
    return boto3.client("s3", config=config)


@cache
def _arrow_s3(pid: int) -> S3FileSystem:
    meta = client().meta
    endpoint = urlsplit(meta.endpoint_url)
    own = (
        {}
        if endpoint.hostname and endpoint.hostname.endswith(("amazonaws.com", "amazonaws.com.cn"))
        else {
            "endpoint_override": endpoint.netloc,
            "scheme": endpoint.scheme,
        }
    )
    return S3FileSystem(
        region=meta.region_name,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=READ_TIMEOUT_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=10),
        **own,
    )
