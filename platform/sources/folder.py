"""A folder of images, its sub-folders included, in sorted order: on this machine, in S3 or in Google Cloud Storage.

Whatever carries the name of an image is listed, also when it turns out to be broken: a bad file becomes a failed row,
not a missing one. Links to folders are followed, except back into a folder that is being listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from vigc.platform.records import ImageRecord, InputError
from vigc.platform.sources.addresses import absolute, is_address, suffix
from vigc.platform.sources.base import Source, in_tables
from vigc.platform.storage import open_folder

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    # Images that are not decoded: each becomes a failed row that says so.
    | {".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd"}
)


class FolderSource(Source):
    name = "folder"

    def __init__(self, root: str) -> None:
        self._root = absolute(root)

    def describe(self) -> str:
        return f"folder {self._root}"

    def place(self, index: int) -> str:
        return f"{self._root}: image {index + 1} in sorted order"

    def num_images(self) -> int | None:
        """How many images there are, counted where listing is cheap."""
        return None if is_address(self._root) else sum(1 for _ in _list(Path(self._root), "", frozenset()))

    def tables(self) -> Iterator[pa.Table]:
        names = _stored(self._root) if is_address(self._root) else _list(Path(self._root), "", frozenset())
        root = self._root.rstrip("/")
        return in_tables(ImageRecord(image_id=name, uri=f"{root}/{name}") for name in names)


def _stored(address: str) -> Iterator[str]:
    for entry in open_folder(address).files():
        if suffix(entry.name) in SUFFIXES and not any(part.startswith(".") for part in entry.name.split("/")):
            yield entry.name


def _list(folder: Path, prefix: str, open_folders: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Paths below the root, as `prefix` + name; `open_folders` are the (device, inode) pairs on the way down."""
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in open_folders:
            return
        with os.scandir(folder) as entries:
            visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot list this folder ({error.strerror}). Make it readable, or move it elsewhere."
        ) from error
    for entry in visible:
        path = prefix + entry.name
        if entry.is_dir():
            yield from _list(folder / entry.name, f"{path}/", open_folders | {identity})
        elif suffix(entry.name) in SUFFIXES and (entry.is_file() or entry.is_symlink()):
            yield _as_text(path, folder)


def _as_text(path: str, folder: Path) -> str:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{str(folder)!r}: the file name {path!r} is not valid UTF-8. Rename the file.") from error
    return path
