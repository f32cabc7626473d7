"""How a pass cuts up its images and what its files are called.

Images keep the order of their source. Shards of some thousand are what is finished and merged at once; blocks of some
dozen are what is made, committed and lost at once. Both are fixed when the pass is created, so the name of a row file
says which images it answers, and no list of finished images is needed anywhere.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

MANIFEST_FOLDER, ROWS_FOLDER, FINISHED_FOLDER, RUNS_FOLDER = "manifest", "rows", "finished", "runs"
REQUEST_FILE, LAYOUT_FILE, VOCABULARY_FILE = "request.json", "layout.json", "vocabulary.json"
SUMMARY_FILE = "summary.json"  # of the whole data set

# Of the whole data set. It grows when a reader of the version before would read something else than what was meant, or
# nothing: then no verb opens the older data, and `read_pass` says so.
FORMAT = 1

ROWS_PER_SHARD = 20_000
# Ray's driver spends some 10 ms on a block whatever is in it, so where there are many images their blocks are larger.
MANY_ROWS_PER_BLOCK, FEW_ROWS_PER_BLOCK = 128, 32
MIN_BLOCKS = 16  # in a small run, so that every actor gets some and something is committed early
HASH_DIGITS = 16

_BLOCK_FILE = re.compile(rf"{ROWS_FOLDER}/(\d+)/(\d+)-([0-9a-f]{{{HASH_DIGITS}}})\.parquet")


class Block(NamedTuple):
    """Some dozen images of one shard."""

    shard: int
    number: int  # within the shard


@dataclass(frozen=True, slots=True)
class Layout:
    num_images: int
    rows_per_shard: int
    rows_per_block: int
    created: str  # tells this pass from another that stood in the same place before
    are_scenes: bool = False  # all images are known to be scenes of `vigc scenes`

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.rows_per_shard)

    def num_rows(self, shard: int) -> int:
        return min(self.rows_per_shard, self.num_images - shard * self.rows_per_shard)

    def num_blocks(self, shard: int) -> int:
        return -(-self.num_rows(shard) // self.rows_per_block)

    def num_rows_of(self, block: Block) -> int:
        return min(self.rows_per_block, self.num_rows(block.shard) - block.number * self.rows_per_block)


def rows_per_block(num_images: int | None) -> int:
    """How many images a block has; `num_images` is None where there are more than a shard."""
    if num_images is None:
        return MANY_ROWS_PER_BLOCK
    return max(1, min(FEW_ROWS_PER_BLOCK, num_images // MIN_BLOCKS))


def manifest_file(shard: int) -> str:
    return f"{MANIFEST_FOLDER}/{shard:05}.parquet"


def block_folder(shard: int) -> str:
    return f"{ROWS_FOLDER}/{shard:05}"


def block_file(block: Block, sha256: str) -> str:
    return f"{block_folder(block.shard)}/{block.number:06}-{sha256[:HASH_DIGITS]}.parquet"


def merged_file(sha256: str) -> str:
    return f"{ROWS_FOLDER}/{sha256[:HASH_DIGITS]}.parquet"


def finished_file(sha256: str) -> str:
    return f"{FINISHED_FOLDER}/{sha256[:HASH_DIGITS]}.json"


def parse_block_file(name: str) -> tuple[Block, str] | None:
    """The block that a file holds and the first digits of its hash; None for another file."""
    found = _BLOCK_FILE.fullmatch(name)
    return (Block(int(found[1]), int(found[2])), found[3]) if found else None


def sha256_of(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
