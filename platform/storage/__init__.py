"""Where a data set lies: a folder on this machine, in S3 or in Google Cloud Storage, all with the same few verbs.

A `Folder` is little more than its address, so it travels to Ray's workers; each process opens its own connections, with
credentials from its own environment, profile or role.
"""

from __future__ import annotations

from pathlib import Path

from vigc.platform.records import ConfigError
from vigc.platform.storage.folder import Entry, Folder
from vigc.platform.storage.local import LocalFolder

__all__ = ["Entry", "Folder", "LocalFolder", "open_folder"]


def open_folder(place: str | Path) -> Folder:
    """The folder at a path, `s3://bucket/prefix` or `gs://bucket/prefix`. Nothing is created.

    Raises:
        ConfigError: another kind of address.
        StoreError: the bucket is not there or may not be used, or its server cannot be reached; within 10 s.
    """
    address = str(place)
    scheme, separator, rest = address.partition("://")
    if not separator:
        return LocalFolder(str(Path(address).absolute()))
    if scheme == "file":
        return LocalFolder(rest)
    if scheme == "s3":
        from vigc.platform.storage.s3 import S3Folder, check_bucket

        folder = S3Folder(f"s3://{rest.strip('/')}")
        check_bucket(folder.bucket)
        return folder
    if scheme in ("gs", "gcs"):
        from vigc.platform.storage.gcs import GcsFolder

        return GcsFolder(f"gs://{rest.strip('/')}")
    raise ConfigError(f"{address}: data can be kept in a folder of this machine, at s3:// or at gs://, not there.")
