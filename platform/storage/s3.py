"""A folder in S3, or in anything that speaks its language (AWS_ENDPOINT_URL).

boto3 reads, writes and lists, because its errors have names and it knows conditional writes; pyarrow reads Parquet,
with the endpoint and region that boto3 found. Both take their keys from the usual AWS variables, profiles and machine
roles; a profile that assumes a role (role_arn) pyarrow does not know: export the role's keys instead. Storage that
overwrites in spite of If-None-Match cannot keep two writers apart; AWS, SeaweedFS and MinIO heed it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import botocore.exceptions as faults
from pyarrow.fs import FileSystem, SubTreeFileSystem

from vigc.platform.records import ConfigError, StoreError
from vigc.platform.storage.folder import Entry, ObjectFolder, Version
from vigc.platform.storage.retry import patience_s, retry

T = TypeVar("T")

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 3.0, 30.0
# The first contact is short, so that a wrong address or key is reported within 10 s.
CHECK_S, CHECK_TIMEOUT_S = 4.0, 3.0
# Within one upload each part is tried again by itself: else a large file would never get through a busy server.
ATTEMPTS_PER_PART = 5
# pyarrow's own patience: waits of 1, 2, 4, 8, 16, 20, 20 s at most, half of that on average.
ARROW_ATTEMPTS, ARROW_TIMEOUT_S = 8, 15.0
MAX_DELETED_AT_ONCE = 1000

_CHECK_KEYS = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_NO_BUCKET = "there is no such bucket. Check its name, or create it"
_REGION = "the bucket is in another region. Set AWS_REGION"
# What waiting cannot mend, and how it can be mended: S3's codes, and pyarrow's names for them.
_REMEDIES = {
    "AccessDenied": f"access is denied. {_CHECK_KEYS}, and the bucket's policy",
    "ACCESS_DENIED": f"access is denied. {_CHECK_KEYS}, and the bucket's policy",
    "InvalidAccessKeyId": f"there is no such access key. {_CHECK_KEYS}",
    "INVALID_ACCESS_KEY_ID": f"there is no such access key. {_CHECK_KEYS}",
    "SignatureDoesNotMatch": f"the secret key is wrong. {_CHECK_KEYS}",
    "SIGNATURE_DOES_NOT_MATCH": f"the secret key is wrong. {_CHECK_KEYS}",
    "ExpiredToken": "the credentials have expired. Get new ones",
    "InvalidToken": "the session token is wrong. Check AWS_SESSION_TOKEN",
    "NoSuchBucket": _NO_BUCKET,
    "NO_SUCH_BUCKET": _NO_BUCKET,
    "InvalidBucketName": "that is no name for a bucket. Check it",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "RequestTimeTooSkewed": "this machine's clock is wrong. Set it",
    "NotImplemented": "the storage cannot do this. Use one that has S3's conditional writes",
}
# What may be gone next time: throttling, a server that restarts, two writers at the same moment.
_PASSING_CODES = frozenset(
    {
        *("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "BandwidthLimitExceeded", "429"),
        *("Throttling", "ThrottlingException", "TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded"),
        *("OperationAborted", "ConditionalRequestConflict", "NoSuchUpload"),
    }
)
_PASSING = (
    *(faults.HTTPClientError, faults.ConnectionError, faults.CredentialRetrievalError),
    *(faults.IncompleteReadError, faults.ChecksumError, faults.FlexibleChecksumError),
)
_CREDENTIALS = (
    *(faults.NoCredentialsError, faults.PartialCredentialsError, faults.CredentialRetrievalError),
    *(faults.ProfileNotFound, faults.TokenRetrievalError, faults.SSOError),
)
_ARROW = re.compile(r"AWS Error (\w+)(?: \(HTTP status (-?\d+)\))?")
_ARROW_PASSING = frozenset({"NETWORK_CONNECTION", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "THROTTLING"})
_ARROW_PASSING |= {"REQUEST_TIMEOUT"}


class S3Folder(ObjectFolder):
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
        return SubTreeFileSystem(f"{self.bucket}/{self.prefix}".rstrip("/"), _arrow(_settings(), self.bucket))

    def retry(self, attempt: Callable[[], T]) -> T:
        return call(attempt, self.uri, patience_s())

    def check(self) -> None:
        """Raises StoreError, within 10 s, when the bucket is not there, may not be used or cannot be reached."""
        key = (_settings(), self.bucket)
        if key not in _checked:
            # Asked for a list and not with HEAD, whose answers have no body that could say what is wrong.
            call(
                lambda: client(CHECK_TIMEOUT_S).list_objects_v2(Bucket=self.bucket, MaxKeys=1),
                f"s3://{self.bucket}",
                CHECK_S,
            )
            _checked.add(key)

    def exists(self) -> bool:
        return bool(self._call("list_objects_v2", Prefix=self.prefix, MaxKeys=1).get("KeyCount"))

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
        # A key that ends with a slash is what some tools put in the place of an empty folder.
        return sorted((entry for entry in entries if not entry.name.endswith("/")), key=lambda entry: entry.name)

    def read(self, name: str) -> bytes:
        return self.version(name).data

    def write(self, name: str, data: bytes) -> None:
        self._call("put_object", name, Key=self.prefix + name, Body=data)

    def upload(self, name: str, path: Path) -> None:
        def attempt() -> None:
            with open(path, "rb") as file:
                uploading = client(min(READ_TIMEOUT_S, patience_s()), ATTEMPTS_PER_PART)
                uploading.upload_fileobj(file, self.bucket, self.prefix + name)

        call(attempt, f"{self.uri}/{name}", patience_s())

    def delete(self, *names: str) -> None:
        for start in range(0, len(names), MAX_DELETED_AT_ONCE):
            keys = [{"Key": self.prefix + name} for name in names[start : start + MAX_DELETED_AT_ONCE]]
            call(lambda keys=keys: self._delete(keys), self.uri, patience_s())  # type: ignore[misc]

    def delete_all(self, folder: str = "") -> None:
        self.delete(*(entry.name for entry in self.files(folder)))

    def create(self, name: str, data: bytes) -> str | None:
        return self._conditional(name, data, IfNoneMatch="*")

    def replace(self, name: str, data: bytes, tag: str) -> str | None:
        return self._conditional(name, data, IfMatch=tag)

    def version(self, name: str) -> Version:
        def attempt() -> Version:
            found = patient_client().get_object(Bucket=self.bucket, Key=self.prefix + name)
            now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
            age_s = (now - found["LastModified"]).total_seconds()
            return Version(found["Body"].read(), found["ETag"], max(0.0, age_s))

        return call(attempt, f"{self.uri}/{name}", patience_s())

    def _conditional(self, name: str, data: bytes, **condition: str) -> str | None:
        try:
            return str(self._call("put_object", name, Key=self.prefix + name, Body=data, **condition)["ETag"])
        except (_Outdated, FileNotFoundError):
            return None

    def _delete(self, keys: list[dict[str, str]]) -> None:
        done = patient_client().delete_objects(Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True})
        for refused in done.get("Errors", ()):  # one by one, in an answer that is a success as such
            raise faults.ClientError({"Error": refused}, "DeleteObjects")

    def _pages(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        page = self._call("list_objects_v2", **arguments)
        yield page
        while page.get("IsTruncated"):
            page = self._call("list_objects_v2", ContinuationToken=page["NextContinuationToken"], **arguments)
            yield page

    def _call(self, method: str, name: str = "", **arguments: Any) -> dict[str, Any]:
        address = f"{self.uri}/{name}" if name else self.uri
        return call(lambda: getattr(patient_client(), method)(Bucket=self.bucket, **arguments), address, patience_s())


class _Outdated(Exception):
    """The condition of a conditional write does not hold."""


def call(attempt: Callable[[], T], address: str, for_s: float) -> T:
    """What `attempt` returns, retried after faults that may pass.

    Raises:
        FileNotFoundError: there is no such key.
        StoreError: anything else that S3 refuses, or that did not pass in time.
    """
    try:
        return retry(attempt, _may_pass, for_s=for_s)
    except FileNotFoundError:
        raise
    except (faults.ClientError, faults.BotoCoreError, OSError) as error:
        raise _explained(error, address, for_s) from error


def _may_pass(error: BaseException) -> bool:
    code, status = _code(error)
    if code:
        return code in _PASSING_CODES | _ARROW_PASSING or status == 429 or (status >= 500 and status != 501)
    return isinstance(error, _PASSING)


def _explained(error: Exception, address: str, for_s: float) -> Exception:
    code, _ = _code(error)
    if code == "NoSuchKey":
        return FileNotFoundError(f"{address}: there is no such file")
    if code in ("PreconditionFailed", "412"):
        return _Outdated(address)
    return StoreError(f"{address}: {_REMEDIES.get(code) or _remedy(error, for_s)}.")


def _remedy(error: Exception, for_s: float) -> str:
    what = " ".join(str(error).split())
    if isinstance(error, faults.ParamValidationError):
        return "that is no name for a bucket or a file. Check it"
    if isinstance(error, _CREDENTIALS):
        return f"no credentials ({what}). {_CHECK_KEYS}"
    if _may_pass(error):
        return (
            f"the storage does not answer, or is too busy, and stayed so for {for_s:.0f} s ({what}). "
            "Check AWS_ENDPOINT_URL and the network; what is committed stays, and the same command goes on from there"
        )
    return f"the storage refused ({what}). Check the address, the key and the bucket's policy"


def _code(error: BaseException) -> tuple[str, int]:
    """What S3 called it, and its HTTP status; ("", 0) for what did not come from there."""
    if isinstance(error, faults.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return str(error.response.get("Error", {}).get("Code", "")), status
    if isinstance(error, OSError) and (found := _ARROW.search(str(error))):
        return found[1], int(found[2] or 0)
    return "", 0


Settings = tuple[int, frozenset[tuple[str, str]]]
_checked: set[tuple[Settings, str]] = set()


def _settings() -> Settings:
    """What a connection belongs to: a process (a fork must not share its parent's) and what its environment says."""
    aws = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return os.getpid(), aws


def client(read_timeout_s: float, attempts: int = 1) -> Any:
    """This process's connections to S3; safe to share among its threads."""
    return _client(_settings(), read_timeout_s, attempts)


def patient_client() -> Any:
    return client(min(READ_TIMEOUT_S, patience_s()))


@cache
def _client(settings: Settings, read_timeout_s: float, attempts: int) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
    )
    try:
        return boto3.Session().client("s3", config=config)
    except ValueError as error:
        raise ConfigError(f"S3: {error}. Check AWS_ENDPOINT_URL; it looks like https://HOST:PORT.") from error


@cache
def _arrow(settings: Settings, bucket: str) -> FileSystem:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    # boto3 follows a bucket into its region; pyarrow has to be told.
    found = call(lambda: patient_client().list_objects_v2(Bucket=bucket, MaxKeys=1), f"s3://{bucket}", patience_s())
    meta = patient_client().meta
    options: dict[str, Any] = {}
    endpoint = urlsplit(meta.endpoint_url)
    if not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
        options.update(endpoint_override=endpoint.netloc + endpoint.path.rstrip("/"), scheme=endpoint.scheme)
    return S3FileSystem(
        region=found["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", meta.region_name),
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=min(ARROW_TIMEOUT_S, patience_s()),
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ARROW_ATTEMPTS),
        **options,
    )
