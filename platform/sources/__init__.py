"""Where images come from: each source is a lazy, repeatable stream of `ImageRecord` with unique ids.

`open_source` chooses one by looking at the place, and `describe()` says which it chose. A place without a single image
is an error here, before anything is written. `Selection` takes a part of any source.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vigc.platform import plugins
from vigc.platform.records import ConfigError, InputError
from vigc.platform.sources.address_list import AddressListSource
from vigc.platform.sources.addresses import absolute, is_address, is_folder, is_web, split, suffix
from vigc.platform.sources.base import Source
from vigc.platform.sources.coco import CocoSource
from vigc.platform.sources.folder import SUFFIXES, FolderSource
from vigc.platform.sources.hub import HUB
from vigc.platform.sources.huggingface import image_column, open_huggingface
from vigc.platform.sources.manifest import TEXT_SUFFIXES, open_manifest
from vigc.platform.sources.parquet_files import SUFFIXES as PARQUET
from vigc.platform.sources.parquet_files import UNFINISHED, ParquetFiles
from vigc.platform.sources.selection import Selection
from vigc.platform.sources.webdataset import WebDatasetSource
from vigc.platform.storage import open_folder

__all__ = ["SOURCES", "UNFINISHED", "Selection", "Source", "open_source"]

SOURCES = ("auto", "folder", "coco", "manifest", "webdataset", "huggingface")


def open_source(location: str, annotations: str | Sequence[str] | None = None, source: str = "auto") -> Source:
    """The images at a place: a path of this machine, or an address (s3://, gs://, hf://, http:// for lists).

    Args:
        location: a folder of images or a list of addresses (.txt); COCO annotations (.json) or a folder with
            `annotations.json`; a manifest (.parquet, .csv, .jsonl, or a folder of Parquet); tar shards; a data set of
            Hugging Face.
        annotations: COCO annotation files about the images below `location`: several in a list, or with commas between
            them. What they say about the same image id is joined.
        source: "auto", or one of SOURCES to decide it oneself, or a plug-in's name.
    Raises:
        InputError: the place does not exist, cannot be read, or holds no image.
        ConfigError: the settings contradict each other.
        StoreError: the storage cannot be reached.
    """
    files = _annotation_files(annotations)
    if source not in SOURCES:
        if files:
            raise ConfigError(f"--source {source} is a plug-in, which reads no annotation file.")
        return _not_empty(_of_plugin(location, source), location)
    if files and source not in ("auto", "coco"):
        raise ConfigError(f"An annotation file was given, which --source {source} does not read. Use --source coco.")
    return _not_empty(_open(location, files, source), location)


def _of_plugin(location: str, name: str) -> Source:
    make = plugins.load(plugins.SOURCES, name)
    if make is None:
        known = ", ".join([*SOURCES, *plugins.installed(plugins.SOURCES)])
        raise ConfigError(f"There is no source {name!r}. Use one of: {known}.")
    opened = make(location)
    if not isinstance(opened, Source):
        raise ConfigError(f"The plug-in for --source {name} gave {type(opened).__name__}, which is no Source.")
    return opened


def _not_empty(opened: Source, location: str) -> Source:
    if next(opened.tables(), None) is None:
        raise InputError(
            f"{location} holds no image. Name a folder with JPEG, PNG, WebP, BMP, TIFF or GIF files in it."
        )
    return opened


def _annotation_files(annotations: str | Sequence[str] | None) -> list[str]:
    if annotations is None:
        return []
    if not isinstance(annotations, str):
        return list(annotations)
    whole = not is_address(annotations) and Path(annotations).exists()
    return [annotations] if whole else [one.strip() for one in annotations.split(",") if one.strip()]


def _open(place: str, annotations: list[str], source: str) -> Source:
    kind = _recognised(place, annotations) if source == "auto" else source
    if kind == "coco":
        return _open_coco(place, annotations)
    if kind == "manifest":
        return open_manifest(_there(place))
    if kind == "webdataset":
        return WebDatasetSource(place if "{" in place else _there(place))
    if kind == "huggingface":
        return open_huggingface(_on_hub(place) or _there(place))
    return _open_folder(place)


def _open_folder(place: str) -> Source:
    if suffix(place) == ".txt" and not is_folder(place):
        return AddressListSource(place)
    if is_web(place):
        raise InputError(f"{place}: the web cannot be listed. Write the addresses into a file, one a line (.txt).")
    if not is_folder(place):
        raise InputError(
            f"{place} is a file. Name the folder that holds the images, a list of addresses (.txt), a COCO annotation "
            "file (.json), a manifest (.parquet, .csv, .jsonl) or a tar."
        )
    return FolderSource(place)


def _recognised(place: str, annotations: list[str]) -> str:
    if annotations:
        return "coco"
    if place.startswith(HUB):
        return "huggingface"
    if suffix(place) == ".tar":
        return "webdataset"
    return _kind_of_folder(place) if is_folder(place) else _kind_of_file(place)


def _kind_of_file(place: str) -> str:
    if suffix(place) in PARQUET:
        return _kind_of_parquet(place)
    return {".json": "coco", **dict.fromkeys(TEXT_SUFFIXES, "manifest")}.get(suffix(place), "folder")


def _kind_of_folder(place: str) -> str:
    names = open_folder(place).names()
    kinds = {suffix(name) for name in names}
    inside = {suffix(name) for name in open_folder(place).names("data")} if "data" in names else set()
    if "annotations.json" in names:
        return "coco"
    if {"state.json", "dataset_dict.json"} & set(names):
        return "huggingface"
    if kinds & SUFFIXES:
        return "folder"
    if ".tar" in kinds:
        return "webdataset"
    return _kind_of_parquet(place) if {*PARQUET} & (kinds | inside) or UNFINISHED in names else "folder"


def _kind_of_parquet(place: str) -> str:
    files = ParquetFiles(place)
    schema = files.schema(files.names[0])
    return "huggingface" if "uri" not in schema.names and image_column(schema) else "manifest"


def _open_coco(place: str, annotations: list[str]) -> Source:
    if annotations:
        return CocoSource(annotations, _there(place))
    file = f"{absolute(place)}/annotations.json" if is_folder(place) else place
    folder = split(file)[0]
    beside = not is_web(place) and "images" in open_folder(folder).names()
    return CocoSource([file], f"{folder}/images" if beside else folder)


def _there(place: str) -> str:
    """Raises InputError where nothing is."""
    is_folder(place)
    return place


def _on_hub(place: str) -> str | None:
    """The address of a data set that is named as on the hub, OWNER/NAME, and does not lie here."""
    if place.startswith(HUB):
        return place
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", place) and not Path(place).exists()
    return f"{HUB}datasets/{place}" if is_id else None
