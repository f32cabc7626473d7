"""Where a data set lies: a folder on this machine, in S3 or in Google Cloud Storage, all with the same few verbs.

A `Folder` is little more than its address, so it travels to Ray's workers; each process opens its own connections, with
credentials from its own environment, profile or role.
"""

from __future__ import annotations

from pathlib import Path

from vigc.platform.records import ConfigError
from vigc.platform.storage.folder import Entry, Folder, NewFolder, ObjectFolder, Version
from vigc.platform.storage.local import LocalFolder

__all__ = ["Entry", "Folder", "LocalFolder", "NewFolder", "ObjectFolder", "Version", "open_file", "open_folder"]


def open_folder(place: str | Path) -> Folder:
    """The folder at a path, `s3://bucket/prefix` or `gs://bucket/prefix`. Nothing is created.

    Raises:
        ConfigError: another kind of address.
        StoreError: the bucket is not there or may not be used, or its server cannot be reached; within 10 s.
    """
    address = str(place)
    scheme, separator, rest = address.partition("://")
    if not separator or scheme == "file":
        return LocalFolder(str(Path(rest if separator else address).absolute()))
    clean = "/".join(part for part in rest.split("/") if part)
    if scheme in ("s3", "gs", "gcs") and not clean:
        raise ConfigError(f"{address}: names no bucket. Write {scheme}://BUCKET/FOLDER.")
    if scheme == "s3":
        from vigc.platform.storage.s3 import S3Folder

        folder = S3Folder(f"s3://{clean}")
        folder.check()
        return folder
    if scheme in ("gs", "gcs"):
        from vigc.platform.storage.gcs import GcsFolder

        return GcsFolder(f"gs://{clean}")
    raise ConfigError(f"{address}: data can be kept in a folder of this machine, at s3:// or at gs://, not there.")


def open_file(address: str | Path) -> tuple[Folder, str]:
    """The folder that a file is in, or would be, and its name there. Raises what `open_folder` raises."""
    text = str(address)
    if "://" not in text:
        path = Path(text).absolute()
        return LocalFolder(str(path.parent)), path.name
    parent, _, name = text.rpartition("/")
    return open_folder(parent), name
