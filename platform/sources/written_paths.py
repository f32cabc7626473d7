"""How annotation tools write the paths of images, and which of these ways leads to the files.

Exports of annotation tools name the folder that they themselves lie in (`images/a.jpg`), write Windows' slashes, or
keep where the picture once was on somebody's disk. A few names are looked for in each way; the best one is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType

from vigc.platform.sources.addresses import COMPLETE
from vigc.platform.storage import Folder, LocalFolder

NUM_LOOKED_AT = 24


def as_on_disk(names: pa.Array, images: Folder) -> pa.Array:
    """The names as paths below `images`, or complete ones; the same array where no other way finds more files."""
    if not len(names):
        return names
    few = names.take(pa.array(np.unique(np.linspace(0, len(names) - 1, NUM_LOOKED_AT).astype(np.int64))))
    if num_there(few, images) == len(few):  # as nearly always; in a bucket each look costs a request
        return names
    found = [num_there(way(few), images) for way in WAYS]
    best = int(np.argmax(found))  # of ways that find as many, the first
    return WAYS[best](names) if best else names


def _as_written(names: pa.Array) -> pa.Array:
    return names


def _with_slashes(names: pa.Array) -> pa.Array:
    return pc.replace_substring(names, "\\", "/")


def _without_first_folder(names: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(_with_slashes(names), r"^(?:\./)*[^/]+/", "")


def _last_part(names: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(_with_slashes(names), r"^.*/", "")


WAYS: tuple[Callable[[pa.Array], pa.Array], ...] = (_as_written, _with_slashes, _without_first_folder, _last_part)


def num_there(names: pa.Array, images: Folder) -> int:
    """How many of the names are files."""
    paths = [str(name) for name in names.to_pylist()]
    is_complete = pc.match_substring_regex(names, COMPLETE).to_pylist()
    if isinstance(images, LocalFolder):
        return sum(os.path.isfile(images.path / path) for path in paths)
    below = [path for path, complete in zip(paths, is_complete, strict=True) if path and not complete]
    return sum(info.type == FileType.File for info in images.arrow.get_file_info(below)) if below else 0
