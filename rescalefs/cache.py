"""Blocks of content on disk, in the order of their use.

    <directory>/v1/<identity>/<number>     one block: 8 bytes xxh3 of its data, then the data
    <directory>/v1/<identity>/verified     there once the whole content matched its checksum
    <directory>/v1/new/                    blocks being written

It knows nothing of files, HTTP or FUSE: an identity is a name, a block is bytes.

Crash safety: a block is written under `new` and renamed; its checksum is looked at on the first read in a process.
A damaged, vanished or foreign block is a miss, and a disk that is full means less caching: the cache may slow a read,
never falsify or fail it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
from pathlib import Path

import xxhash
from cachetools import LRUCache

log = logging.getLogger(__name__)

# The cache leaves at least this much of the disk to others.
MIN_FREE_BYTES = 1 << 30
_SUM_BYTES = 8


class DiskCache:
    """Blocks on disk, at most `limit_bytes` of them; the least recently used go first. Threads: any."""

    def __init__(self, directory: Path, limit_bytes: int, *, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        self._root = directory / "v1"
        self._new = self._root / "new"
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()  # guards _sizes, _evicted and _checked; no disk I/O is done under it
        self._evicted: list[str] = []
        self._sizes = _Sizes(limit_bytes, self._evicted)
        self._checked: set[str] = set()
        self._has_warned = False

    def start(self) -> None:
        """Learn what is there, oldest use first."""
        try:
            self._make(self._new)
            found = sorted(
                (info.st_mtime, f"{directory.name}/{entry.name}", info.st_size)
                for directory in os.scandir(self._root)
                if directory.is_dir(follow_symlinks=False) and directory.name != "new"
                for entry in os.scandir(directory.path)
                if entry.name.isdigit()
                for info in (entry.stat(follow_symlinks=False),)
            )
        except OSError as error:
            self._warn(error)
            return
        for _, name, size in found:
            self._learn(name, size)

    def get(self, identity: str, number: int) -> bytes | None:
        """Return a block, or None on a miss."""
        name = f"{identity}/{number}"
        try:
            raw = (self._root / name).read_bytes()
        except OSError:
            return None
        with self._lock:
            is_checked = name in self._checked
            self._sizes.get(name)
        data = raw[_SUM_BYTES:]
        if not is_checked:
            if xxhash.xxh3_64_digest(data) != raw[:_SUM_BYTES]:
                log.warning("cached block %s is damaged; fetching it again", name)
                self.drop(identity, number)
                return None
            with self._lock:
                self._checked.add(name)
            with contextlib.suppress(OSError):
                os.utime(self._root / name)
        return data

    def put(self, identity: str, number: int, data: bytes | memoryview) -> None:
        """Keep a block, if there is room; at most one warning tells that there is none."""
        name = f"{identity}/{number}"
        try:
            self._make(self._new)
            self._make(self._root / identity)
            if shutil.disk_usage(self._new).free < self._min_free_bytes + len(data):
                raise OSError("the disk is nearly full")
            with tempfile.NamedTemporaryFile(dir=self._new, delete=False) as file:
                file.write(xxhash.xxh3_64_digest(data))
                file.write(data)
            os.replace(file.name, self._root / name)
        except OSError as error:
            with contextlib.suppress(OSError, UnboundLocalError):
                os.unlink(file.name)
            self._warn(error)
            return
        with self._lock:
            self._checked.add(name)
        self._learn(name, len(data) + _SUM_BYTES)

    def drop(self, identity: str, number: int) -> None:
        """Forget a block."""
        name = f"{identity}/{number}"
        with self._lock:
            self._sizes.pop(name, None)
            self._checked.discard(name)
        with contextlib.suppress(OSError):
            (self._root / name).unlink()

    def mark_verified(self, identity: str) -> None:
        """Remember that the whole content matched its checksum."""
        with contextlib.suppress(OSError):
            self._make(self._root / identity)
            (self._root / identity / "verified").touch(mode=0o600)

    def is_verified(self, identity: str) -> bool:
        """Tell whether the whole content matched its checksum once."""
        return (self._root / identity / "verified").exists()

    def blocks(self, identity: str) -> int:
        """Return how many blocks of a content are there."""
        with contextlib.suppress(OSError):
            return sum(name.isdigit() for name in os.listdir(self._root / identity))
        return 0

    def _make(self, directory: Path) -> None:
        """Make a directory and those above it, for this user alone; `parents=True` would open those above to others."""
        for path in (self._root.parent, self._root, directory):
            path.mkdir(mode=0o700, exist_ok=True)

    def _learn(self, name: str, size: int) -> None:
        """Count a block, and remove those that have to go for it."""
        with self._lock:
            try:
                self._sizes[name] = size
            except ValueError:  # it is larger than the whole cache
                self._evicted.append(name)
            evicted, self._evicted[:] = list(self._evicted), []
            self._checked.difference_update(evicted)
        for old in evicted:
            with contextlib.suppress(OSError):
                (self._root / old).unlink()

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            log.warning("the cache %s cannot be written (%s); reads go on without it", self._root, error)
            self._has_warned = True


class _Sizes(LRUCache[str, int]):
    """Block sizes by name, in order of use; what falls out is noted for its file to be removed."""

    def __init__(self, limit_bytes: int, evicted: list[str]) -> None:
        super().__init__(limit_bytes, getsizeof=lambda size: size)
        self._noted = evicted

    def popitem(self) -> tuple[str, int]:
        name, size = super().popitem()
        self._noted.append(name)
        return name, size
