"""WebDataset: tar shards whose members with the same key are one sample, an image with its `.json` and `.txt`.

Shards are indexed by their headers and the images stay where they are: the uri is `SHARD#OFFSET+SIZE`, the image's
bytes inside the tar, and the image_id the shard's path below the root, a slash, and the member's name. `.txt` is a
caption; `.json` may hold caption(s), objects, width and height.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, product
from typing import IO, Any, cast

import pyarrow as pa

from vigc.platform.records import ImageRecord, InputError
from vigc.platform.sources import annotated
from vigc.platform.sources.addresses import absolute, is_text, readable, split, suffix
from vigc.platform.sources.base import Source, categories_of, in_tables
from vigc.platform.sources.folder import SUFFIXES
from vigc.platform.storage import LocalFolder, open_folder

BUFFER_BYTES = 64 * 1024  # of one request to storage, where a header is 512 bytes
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass
class _Sample:
    key: str
    images: list[tuple[str, int, int]] = field(default_factory=list)  # member, offset, size
    captions: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)


class WebDatasetSource(Source):
    name = "webdataset"

    def __init__(self, place: str) -> None:
        """Raises InputError when there is no shard at `place`: a tar, a folder of them, or names in braces."""
        self._place = absolute(place)
        self._root, self._shards = _shards(self._place)
        self._files = open_folder(self._root)

    def describe(self) -> str:
        return f"webdataset {self._place}, shards: {len(self._shards)}"

    def place(self, index: int) -> str:
        record = next(islice(self._records(), index, None))
        return f"{record.image_id} (bytes {record.uri.rpartition('#')[2]})"

    def tables(self) -> Iterator[pa.Table]:
        return in_tables(self._records())

    def categories(self) -> list[str] | None:
        return categories_of(self.tables())

    def _records(self) -> Iterator[ImageRecord]:
        for shard in self._shards:
            address = f"{self._root.rstrip('/')}/{shard}"
            for sample in _samples(address, self._open(shard)):
                captions = list(dict.fromkeys([*sample.captions, *(sample.found.get("captions") or [])]))
                for member, offset, size in sample.images:
                    yield ImageRecord(
                        image_id=f"{shard}/{member}",
                        uri=f"{address}#{offset}+{size}",
                        width=sample.found.get("width"),
                        height=sample.found.get("height"),
                        objects=sample.found.get("objects"),
                        captions=captions or None,
                    )

    @contextmanager
    def _open(self, shard: str) -> Iterator[IO[bytes]]:
        with readable(f"{self._root.rstrip('/')}/{shard}"):
            if isinstance(self._files, LocalFolder):
                with open(self._files.path / shard, "rb") as file:
                    yield file
            else:
                with self._files.arrow.open_input_file(shard) as stored:
                    yield cast(IO[bytes], io.BufferedReader(stored, BUFFER_BYTES))


def _samples(address: str, opened: Any) -> Iterator[_Sample]:
    with opened as file:
        sample = _Sample("")
        keys: set[str] = set()
        files: dict[str, tuple[int, int]] = {}  # offset and size of each member so far, for links to it
        for member in _members(address, file):
            folder, slash, name = member.name.rpartition("/")
            stem, _, kind = name.partition(".")
            is_link = member.islnk() or member.issym()
            if not stem or not (member.isfile() or is_link):
                continue
            if not is_text(member.name):
                raise _broken(address, member.offset, f"the member {member.name!r} has no name in UTF-8")
            key = folder + slash + stem
            if key != sample.key:
                yield sample
                sample = _Sample(key)
                if key in keys:
                    raise InputError(
                        f"{address}: at byte {member.offset}: the key {key!r} comes again behind others, so its "
                        "members cannot be joined. Sort the shard: tar --sort=name."
                    )
                keys.add(key)
            place = _linked(address, member, files) if is_link else (member.offset_data, member.size)
            files[posixpath.normpath(member.name)] = place
            if suffix(name) in SUFFIXES:
                sample.images.append((member.name, *place))
            elif kind.lower() in ("txt", "json"):
                file.seek(place[0])
                _note(sample, kind.lower(), file.read(place[1]), f"{address}: {member.name} (at byte {member.offset})")
        yield sample


def _linked(address: str, member: tarfile.TarInfo, files: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Where the data of a link lie. A hard link's target is a name in the archive, a symbolic one's is beside it."""
    folder = "" if member.islnk() else posixpath.dirname(member.name)
    target = posixpath.normpath(posixpath.join(folder, member.linkname))
    if target not in files:
        what = f"{member.name!r} is a link to {member.linkname!r}, which does not stand before it"
        raise _broken(address, member.offset, what)
    return files[target]


def _note(sample: _Sample, kind: str, data: bytes, place: str) -> None:
    try:
        text = data.decode("utf-8-sig")
        if kind == "txt":
            sample.captions += [text.strip()] if text.strip() else []
            return
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        captions = content.get("captions", content.get("caption"))
        sample.found = {
            "width": annotated.side(content.get("width")),
            "height": annotated.side(content.get("height")),
            "objects": annotated.objects(content.get("objects")),
            "captions": annotated.captions(captions),
        }
    except ValueError as error:  # of decoding, of JSON, of what it holds
        raise InputError(f"{place}: {error}. Fix the member, or leave it out of the shard.") from error


def _members(address: str, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The headers, read with seeks over the data.

    `tarfile` by itself takes a damaged header for the end of the archive, so that the images behind it would vanish.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    begins = file.read(6)
    if (packed := next((name for magic, name in _COMPRESSED.items() if begins.startswith(magic)), None)) is not None:
        raise InputError(f"{address}: compressed with {packed}. Unpack it to a plain tar first.")
    file.seek(0)
    at = 0
    try:
        archive = tarfile.TarFile(fileobj=file, mode="r")
        while (member := archive.next()) is not None:
            if member.offset_data + member.size > size:
                raise _broken(address, member.offset, f"cut short within {member.name!r}")
            yield member
            at = archive.offset
    except tarfile.TarError as error:
        raise _broken(address, at, f"no tar archive, or a damaged one ({error})") from error
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        what = "no header of a member" if len(block) == tarfile.BLOCKSIZE else "cut short, the end mark is missing"
        raise _broken(address, archive.offset, what)


def _broken(address: str, offset: int, what: str) -> InputError:
    return InputError(f"{address}: at byte {offset}: {what}. Fetch or write the shard anew.")


def _shards(place: str) -> tuple[str, list[str]]:
    """The root, and the shards' paths below it."""
    if "{" in place:
        root, _, rest = place.partition("{")
        root, _, start = root.rpartition("/")
        pattern = f"{start}{{{rest}"
        names = _expanded(pattern)
        there = {entry.name for entry in open_folder(root).files()}
        if missing := [name for name in names if name not in there]:
            raise InputError(
                f"{root}/{missing[0]}: no such shard; {len(missing)} of {len(names)} are missing. Check the braces."
            )
        return root, names
    if suffix(place) == ".tar":
        root, name = split(place)
        return root, [name]
    names = [entry.name for entry in open_folder(place).files() if suffix(entry.name) == ".tar"]
    if not names:
        raise InputError(f"{place}: no .tar file in it. Name a tar, a folder of them, or shards-{{0000..0012}}.tar.")
    return place, names


def _expanded(pattern: str) -> list[str]:
    """{00..12} counts, with the zeros of its first number; {a,b} lists."""
    parts = _BRACES.split(pattern)
    choices: list[list[str]] = []
    for number, part in enumerate(parts):
        counted = _RANGE.fullmatch(part)
        if number % 2 == 0:
            choices.append([part])
        elif counted:
            first, last = counted.groups()
            choices.append([f"{one:0{len(first)}}" for one in range(int(first), int(last) + 1)])
        else:
            choices.append(part.split(","))
    return ["".join(chosen) for chosen in product(*choices)]
