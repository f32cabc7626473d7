"""WebDataset: tar shards, in which each example is an image, its texts as JSON, and the same key for both.

The JSON holds LLaVA's `conversations` beside `image_id`, `kinds` and `vig_answers`. Keys are numbers: readers cut
a name at its first dot, so an image_id would not do. Read with
`webdataset.WebDataset("OUT/shard-{00000..00003}.tar").decode("pil")`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from vigc.platform.exports import llava
from vigc.platform.exports.examples import Example
from vigc.platform.exports.images import ImageFile
from vigc.platform.storage import NewFolder

SHARD_BYTES = 512 * 2**20


def write(examples: Iterable[tuple[Example, ImageFile]], folder: NewFolder, shard_bytes: int = SHARD_BYTES) -> int:
    """Returns how many examples were written; a shard ends with the example that makes it `shard_bytes` or more."""
    num, num_shards, num_bytes = 0, 0, 0
    with ExitStack() as open_shard:
        shard: tarfile.TarFile | None = None
        for example, image_file in examples:
            if shard is None or num_bytes >= shard_bytes:
                open_shard.close()
                shard, num_bytes = open_shard.enter_context(_shard(folder, num_shards)), 0
                num_shards += 1
            key = f"{num:09}"
            num_bytes += _add(shard, f"{key}.{image_file.ending}", image_file.data)
            num_bytes += _add(shard, f"{key}.json", json.dumps(_texts(example), ensure_ascii=False).encode())
            num += 1
    return num


@contextmanager
def _shard(folder: NewFolder, number: int) -> Iterator[tarfile.TarFile]:
    with folder.file(f"shard-{number:05}.tar") as path, tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        yield shard


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> int:
    entry = tarfile.TarInfo(name)  # no time, no owner: the same examples give the same bytes
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))
    return len(data)


def _texts(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "image_id": example.image_id,
        "kinds": [one["kind"] for one in example.conversations],
        "conversations": llava.turns(example),
        "vig_answers": [one["vig_answer"] for one in example.conversations],
    }
