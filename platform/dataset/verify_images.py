"""Whether the images that a data set was made of are still what they were: each is read again and its hash compared.

An image that two passes saw alike is read once. Without a sample nothing is kept of the images that are unchanged;
where there are several passes, eight bytes for each, to know it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import islice
from typing import NamedTuple

from vigc.platform.dataset.store import Store
from vigc.platform.images.fetch import fetch_many
from vigc.platform.images.refused import Refused

MAX_LISTED = 10_000  # of `changed` and `unreadable`; the counts are whole
AT_ONCE = 2_048  # of these, those that lie elsewhere are fetched ahead


@dataclass
class ImageCheck:
    num_checked: int = 0
    num_without_hash: int = 0  # images that could not be read when the data set was made: there is nothing to compare
    num_changed: int = 0
    num_unreadable: int = 0
    changed: list[dict[str, str]] = field(default_factory=list)  # image_id and uri of the first MAX_LISTED
    unreadable: list[dict[str, str]] = field(default_factory=list)  # the same, and the reason

    @property
    def ok(self) -> bool:
        return not self.num_changed and not self.num_unreadable


class _Seen(NamedTuple):
    """An image as the data set saw it."""

    image_id: str
    uri: str
    sha256: str | None


def verify_images(
    store: Store, sample: int | None = None, on_progress: Callable[[int, int], None] | None = None
) -> ImageCheck:
    """Reads the images of the view's rows, those that lie elsewhere with several threads.

    Args:
        sample: only so many: those whose ids have the smallest hashes, so the same each time.
        on_progress: called with the number of images read and of all that will be.
    Raises:
        StoreError: the rows cannot be read.
    """
    found = ImageCheck()
    wanted, total = _chosen(store, sample, found)
    while some := list(islice(wanted, AT_ONCE)):
        for one, data in zip(some, fetch_many([one.uri for one in some]), strict=True):
            _compare(one, data, found)
            if on_progress is not None:
                on_progress(found.num_checked, total)
    return found


def _chosen(store: Store, sample: int | None, found: ImageCheck) -> tuple[Iterator[_Seen], int]:
    """The images to be read, in the order of the rows, and their number."""

    def hashed() -> Iterator[_Seen]:
        return (one for one in _images(store) if one.sha256)

    num_hashed = 0
    for one in _images(store):
        num_hashed += one.sha256 is not None
        found.num_without_hash += one.sha256 is None
    if sample is None or sample >= num_hashed:
        return hashed(), num_hashed
    keyed = ((_short_hash(one.image_id), position, one) for position, one in enumerate(hashed()))
    chosen = sorted(nsmallest(sample, keyed), key=lambda drawn: drawn[1])  # neighbours in a table are read together
    return (one for _, _, one in chosen), sample


def _images(store: Store) -> Iterator[_Seen]:
    """Each image of the view once."""
    known: set[int] | None = set() if len(store.existing_passes()) > 1 else None
    for batch in store.batches(["image_id", "uri", "sha256"]):
        for one in map(_Seen, *(batch[name].to_pylist() for name in _Seen._fields)):
            if known is not None:
                key = _short_hash(f"{one.image_id}\0{one.sha256}")
                if key in known:
                    continue
                known.add(key)
            yield one


def _compare(one: _Seen, data: bytes | Refused, found: ImageCheck) -> None:
    found.num_checked += 1
    name = {"image_id": one.image_id, "uri": one.uri}
    if isinstance(data, Refused):
        found.num_unreadable += 1
        if len(found.unreadable) < MAX_LISTED:
            found.unreadable.append(name | {"reason": str(data)})
    elif hashlib.sha256(data).hexdigest() != one.sha256:
        found.num_changed += 1
        if len(found.changed) < MAX_LISTED:
            found.changed.append(name)


def _short_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
