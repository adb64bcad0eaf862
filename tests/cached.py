"""Contents in a cache directory of a test's own, by plain means."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from rescalefs.content.cache import MAX_OPEN, DiskCache
from rescalefs.content.segment import BLOCK_BYTES, DATA_AT, SEGMENT_BYTES

LIMIT = 1 << 30
# Bytes on disk of a segment of one block.
ONE = DATA_AT + BLOCK_BYTES
PLAIN = hashlib.shake_128(b"cache").digest(SEGMENT_BYTES + 5 * BLOCK_BYTES + 4711)


@dataclass(frozen=True)
class Made:
    """A content by name and size; no two have equal bytes in one place."""

    number: int
    size: int

    @property
    def identity(self) -> str:
        return hashlib.blake2b(str(self).encode(), digest_size=20).hexdigest()

    def bytes(self, start: int, end: int) -> bytes:
        return PLAIN[start + self.number : min(end, self.size) + self.number]

    @property
    def blocks(self) -> int:
        return -(-self.size // BLOCK_BYTES)

    def write(self, cache: DiskCache, first: int = 0, last: int | None = None) -> bool:
        """Keep blocks [first, last), segment by segment."""
        start, end = first * BLOCK_BYTES, min(self.size, (self.blocks if last is None else last) * BLOCK_BYTES)
        are_kept = True
        while start < end:
            until = min(end, (start // SEGMENT_BYTES + 1) * SEGMENT_BYTES)
            are_kept &= cache.write(self.identity, start, memoryview(self.bytes(start, until)), self.size)
            start = until
        return are_kept

    def read(self, cache: DiskCache, start: int = 0, end: int | None = None) -> bytes | None:
        return cache.read(self.identity, start, self.size if end is None else end, self.size)

    def is_here(self, cache: DiskCache) -> bool:
        return cache.missing(self.identity, 0, self.size, self.size) is None


SMALL = [Made(number, BLOCK_BYTES) for number in range(10)]
Open = Callable[..., DiskCache]


def opened(
    root: Path, limit_bytes: int = LIMIT, clock: Callable[[], float] = lambda: 1e6, max_open: int = MAX_OPEN
) -> DiskCache:
    cache = DiskCache(root, limit_bytes, min_free_bytes=0, max_open=max_open, clock=clock)
    cache.start()
    return cache


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Open]:
    """Begin to use the cache directory of the test: each one is as another process to the others."""
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(closing(opened(tmp_path, *args, **more)))


def descriptors(root: Path) -> int:
    """How many files of the cache this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(f"{root}/")
        except FileNotFoundError:
            continue
    return found


def name(content: Made) -> str:
    return f"{content.identity[:2]}/{content.identity}.0"


CONTENTS = [Made(0, 1), Made(1, 3 * BLOCK_BYTES), Made(2, SEGMENT_BYTES + 5 * BLOCK_BYTES + 4000)]
VICTIM = Made(3, 3 * BLOCK_BYTES + 17)
