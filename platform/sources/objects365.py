"""What is particular to Objects365, which otherwise is a COCO file (v1 and v2 name the same things differently).

Its `file_name`s are those of its authors (`images/v2/patch16/objects365_v2_00908726.jpg`); on disk the last two parts
count, below whatever the downloads were unpacked into. Three annotated files were never published. Boxes marked
`isfake` (a picture or toy of the thing) or `isreflected` (seen in a mirror) are ordinary objects here: they are to be
seen, so a sentence that names them is no hallucination.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType

from vigc.platform.storage import Folder

_PATCH = r"^(?:.*/)?(patch\d+/[^/]+)$"
_FOLDERS = ("", "train/", "val/", "test/", "images/", "images/train/", "images/val/")
NUM_LOOKED_AT = 24

# Annotated, but in no download.
NEVER_PUBLISHED = (
    "patch16/objects365_v2_00908726.jpg",
    "patch6/objects365_v1_00320532.jpg",
    "patch6/objects365_v1_00320534.jpg",
)

# Whole names, in lower case as in v1; v2 writes the same words with capitals.
_RIGHT_NAMES = {
    "moniter/tv": "monitor/tv",
    "moniter": "monitor",
    "bakset": "basket",
    "ballon": "balloon",
    "dinning table": "dining table",
    "noddles": "noodles",
    "campel": "camel",
    "hamimelon": "hami melon",
}


def category_name(name: str) -> str:
    """Without the blanks around it and the known typos; v1 stays in lower case, v2 with its capitals."""
    name = " ".join(name.split())
    right = _RIGHT_NAMES.get(name.lower())
    if right is None or name.islower():
        return right or name
    return right.title().replace("/Tv", "/TV")


def is_published(names: pa.Array) -> pa.Array:
    patched = pc.replace_substring_regex(names, _PATCH, r"\1")
    return pc.invert(pc.is_in(patched, value_set=pa.array(NEVER_PUBLISHED)))


def as_on_disk(names: pa.Array, images: Folder) -> pa.Array:
    """The names as paths below `images`, by whichever known layout the first few of them are found in.

    Names without a patch folder, and all of them where none is found, stay as they are.
    """
    patched = pc.filter(names, pc.match_substring_regex(names, _PATCH))
    if not len(patched):
        return names
    few = patched.take(pa.array(np.unique(np.linspace(0, len(patched) - 1, NUM_LOOKED_AT).astype(np.int64))))
    best = max(_layouts(), key=lambda layout: _num_there(layout(few), images))
    return best(names)


def _layouts() -> list[Callable[[pa.Array], pa.Array]]:
    """Of two that fit equally well, the first is taken."""

    def below(folder: str) -> Callable[[pa.Array], pa.Array]:
        return lambda names: pc.replace_substring_regex(names, _PATCH, folder + r"\1")

    def as_written(names: pa.Array) -> pa.Array:
        return names

    def without_first(names: pa.Array) -> pa.Array:
        return pc.replace_substring_regex(names, r"^[^/]+/(.*patch\d+/[^/]+)$", r"\1")

    return [as_written, without_first, *(below(folder) for folder in _FOLDERS)]


def _num_there(names: pa.Array, images: Folder) -> int:
    paths = [name.lstrip("/") for name in names.to_pylist()]
    return sum(info.type == FileType.File for info in images.arrow.get_file_info(paths))
