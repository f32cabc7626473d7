"""Which images are nearly the same, by the distance of their perceptual hashes.

Hashes of 64 bits that differ in at most d agree in one of d + 1 bands, so only those that share a band are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
COMPARED_AT_ONCE = 2**22


def hashes_of(texts: list[str]) -> Hashes:
    """Hashes as numbers, from 16 hex digits each."""
    return np.array([int(text, 16) for text in texts], np.uint64)


def near_duplicates(hashes: Hashes, max_distance: int) -> NDArray[np.int64]:
    """For each image the number of the image that stands for it: the first that is near enough and follows no other.

    So no chain of small differences joins images that are not alike.
    """
    unique, first, number_of = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)  # different hashes in the order of the images
    rank = np.argsort(order)
    neighbours: dict[int, list[int]] = {}
    for earlier, later in _near_pairs(unique[order], max_distance):
        neighbours.setdefault(earlier, []).append(later)
    stands = np.arange(len(unique), dtype=np.int64)
    for number in sorted(neighbours):
        if stands[number] != number:
            continue
        for other in neighbours[number]:
            if stands[other] == other:
                stands[other] = number
    found: NDArray[np.int64] = first[order][stands[rank[number_of]]]
    return found


def nearest(hashes: Hashes, others: Hashes, max_distance: int) -> Iterator[tuple[int, int, int]]:
    """For each hash with one of the others near enough: its number, the nearest other's, and their distance."""
    if not len(others):
        return
    step = max(1, COMPARED_AT_ONCE // len(others))
    for start in range(0, len(hashes), step):
        distances = np.bitwise_count(hashes[start : start + step, None] ^ others[None])
        closest = distances.argmin(axis=1)
        least = distances[np.arange(len(closest)), closest]
        for row in np.flatnonzero(least <= max_distance):
            yield start + int(row), int(closest[row]), int(least[row])


def _near_pairs(hashes: Hashes, max_distance: int) -> Iterator[tuple[int, int]]:
    """Numbers of different hashes, the smaller first; a pair may come more than once."""
    edges = np.linspace(0, 64, max_distance + 2).astype(int)
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order][:1] - np.uint64(1)))
        for begin, end in zip(starts, [*starts[1:], len(order)], strict=True):
            yield from _near_in(hashes, order[begin:end], max_distance)


def _near_in(hashes: Hashes, group: NDArray[np.int64], max_distance: int) -> Iterator[tuple[int, int]]:
    """The pairs within a group whose numbers ascend."""
    if len(group) < 2:
        return
    step = max(1, COMPARED_AT_ONCE // len(group))
    for start in range(0, len(group), step):
        rows = group[start : start + step]
        near = np.bitwise_count(hashes[rows, None] ^ hashes[None, group]) <= max_distance
        for row, column in zip(*np.nonzero(near), strict=True):
            if rows[row] < group[column]:
                yield int(rows[row]), int(group[column])
