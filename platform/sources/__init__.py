"""Where images come from: each source is a lazy, repeatable stream of `ImageRecord` with unique ids.

`open_source` chooses one by looking at the place: a COCO annotation file makes it `coco`, any other folder is
`folder`. A place without a single image is an error here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from vigc.platform.records import ConfigError, ImageRecord, InputError
from vigc.platform.sources.coco import CocoSource
from vigc.platform.sources.folder import FolderSource

SOURCES = ("auto", "folder", "coco")


class Source(Protocol):
    @property
    def name(self) -> str: ...

    def describe(self) -> str:
        """One line for people and for the pass's request: the kind of source and where it is."""
        ...

    def __iter__(self) -> Iterator[ImageRecord]: ...


def open_source(location: str, annotations: str | None = None, source: str = "auto") -> Source:
    """The images at a place on this machine's file system.

    Args:
        location: a folder of images, a COCO annotation file, or a folder with `annotations.json` (and `images/`).
        annotations: a COCO annotation file whose file names lie below `location`.
        source: "auto", or "folder" / "coco" to decide it oneself.
    Raises:
        InputError: the place does not exist, cannot be read, or holds no image.
        ConfigError: the settings contradict each other.
    """
    if source not in SOURCES:
        raise ConfigError(f"There is no source {source!r}. Use one of: {', '.join(SOURCES)}.")
    if annotations is not None and source == "folder":
        raise ConfigError("An annotation file was given, which the source 'folder' does not read. Use --source coco.")
    path = Path(location)
    opened = _open(path, Path(annotations) if annotations is not None else None, source)
    if next(iter(opened), None) is None:
        raise InputError(f"{path} holds no image. Name a folder with JPEG, PNG, WebP, BMP, TIFF or GIF files in it.")
    return opened


def _open(path: Path, annotations: Path | None, source: str) -> Source:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder. Check the path; relative paths start at {Path.cwd()}.")
    if annotations is not None:
        return CocoSource(annotations, path)
    if path.is_dir():
        inside = path / "annotations.json"
        if source == "folder" or (source == "auto" and not inside.exists()):
            return FolderSource(path)
        return CocoSource(inside, _images_beside(inside))
    if source != "folder" and path.suffix.lower() == ".json":
        return CocoSource(path, _images_beside(path))
    raise InputError(f"{path} is a file. Name the folder that holds the images, or a COCO annotation file (.json).")


def _images_beside(annotations: Path) -> Path:
    images = annotations.parent / "images"
    return images if images.is_dir() else annotations.parent
