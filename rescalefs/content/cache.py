"""The disk cache: segments of content, bounded by bytes, the least recently used go first. Shared by processes.

    <directory>/v2/<first two digits>/<identity>.<number>     a segment, see `segment`
    <directory>/v2/lock                                       held, shared, by every process that uses the cache

A segment's file says itself what it holds, so the directory is the index, and there is nothing that could disagree with
it. The order of use is the files' times. No room means less caching: the cache may slow a read, never falsify or fail
it. A directory in which others can write is not used at all, because what lies there is believed. The cache knows
nothing of files, HTTP or FUSE: an identity is a name of 40 hex digits, a content is bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from cachetools import LRUCache

from rescalefs.content.segment import (
    BLOCK_BYTES,
    DATA_AT,
    MISSING,
    SEGMENT_BYTES,
    Segment,
    open_segment,
    segment_name,
    segments_of,
)
from rescalefs.private import make_inside, make_top, open_inside, remove_inside
from rescalefs.timing import Clock

log = logging.getLogger(__name__)

# The cache leaves a tenth of the disk to others, but of a large one no more than this.
MIN_FREE_BYTES = 1 << 30
_FREE_SHARE = 10
# Descriptors kept, where the process may have many.
MAX_OPEN = 512
# How old the noted time of last use may be: in this process, and on disk for the other ones.
_NOTED_S = 1.0
_NOTED_ON_DISK_S = 60.0
# A process that shares the cache looks again at what is there when it has written this share of the limit.
_RESCAN_SHARE = 16
_PAGE_BYTES = 4096
_MISSING = bytes([MISSING])


def segments_directory(directory: Path) -> Path:
    """Return where segments are in a cache directory; a version of the program that has other ones has its own."""
    return directory / "v2"


class DiskCache:
    """Segments on disk, at most `limit_bytes` of them; the least recently used go first. Threads: any.

    At most *max_open* of them are kept open, so that descriptors are left for connections.
    """

    def __init__(
        self,
        directory: Path,
        limit_bytes: int,
        *,
        min_free_bytes: int | None = None,
        max_open: int = MAX_OPEN,
        clock: Clock = time.monotonic,
    ) -> None:
        self.limit_bytes = limit_bytes
        self._root = segments_directory(directory)
        self._min_free_bytes = min_free_bytes
        self._max_open = max_open
        self._clock = clock
        # Guards _sizes, _evicted and _written_bytes, and that a segment is opened once; files are opened and
        # removed under it, which is short, but no block is read or written.
        self._lock = threading.RLock()
        self._evicted: list[str] = []
        self._sizes = _Sizes(limit_bytes, self._evicted)
        self._opened: dict[tuple[str, int], Segment] = {}  # read without the lock: a look-up in a dict is one step
        self._written_bytes = 0  # since the directory was last looked at
        self._users: int | None = None  # descriptor of the lock file; None while the directory cannot be used
        self._is_closed = False
        self._has_warned = False

    def start(self) -> None:
        """Learn what is there, oldest use first."""
        try:
            with self._lock:
                self._begin()
        except OSError as error:
            self._warn(error)

    def _begin(self) -> None:
        """Make the directories where they are missing, and look at what is there.

        Raises:
            OSError: they cannot be made, or are not ours alone: then nothing is read from them either.
        """
        make_top(self._root.parent)
        make_inside(self._root)
        users = open_inside(self._root, "lock", os.O_RDWR | os.O_CREAT)
        with contextlib.suppress(OSError):  # a file system without locks has one process, or is slower
            fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._users = users
        self._scan()

    def close(self) -> None:
        """Let go of all files, for good."""
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        with self._lock:
            for segment in self._opened.values():
                segment.is_evicted = True
            self._opened.clear()
            if self._users is not None:
                os.close(self._users)
            self._users = None

    def find(self, identity: str, number: int, content_bytes: int) -> Segment | None:
        """Return a segment that is on disk, else None. Costs a look-up when it is open already."""
        segment = self._opened.get((identity, number))
        if segment is None or segment.is_evicted:
            segment = self._open(identity, number, content_bytes, may_make=False)
            if segment is None:
                return None
        now = self._clock()
        if now - segment.noted_at > _NOTED_S:
            self._note_use(segment, now)
        return segment

    def readinto(self, identity: str, start: int, buffer: memoryview, content_bytes: int) -> bool:
        """Fill *buffer* with the bytes of a content from *start* on; False if not all of them are here."""
        number, offset = divmod(start, SEGMENT_BYTES)
        if offset + len(buffer) <= SEGMENT_BYTES:  # most reads by far
            segment = self.find(identity, number, content_bytes)
            return segment is not None and segment.readinto(offset, buffer)
        count = SEGMENT_BYTES - offset
        return self.readinto(identity, start, buffer[:count], content_bytes) and self.readinto(
            identity, start + count, buffer[count:], content_bytes
        )

    def read(self, identity: str, start: int, end: int, content_bytes: int) -> bytes | None:
        """Return bytes [start, end) of a content, None if not all of them are here."""
        buffer = bytearray(end - start)
        return bytes(buffer) if self.readinto(identity, start, memoryview(buffer), content_bytes) else None

    def expect(self, identity: str, start: int, end: int, content_bytes: int) -> None:
        """Have the disk read ahead what it holds of these bytes, so that their reader does not wait for it."""
        while start < end:
            number, offset = divmod(start, SEGMENT_BYTES)
            until = min(end, (number + 1) * SEGMENT_BYTES)
            segment = self.find(identity, number, content_bytes)
            if segment is not None:
                segment.expect(offset, until - start)
            start = until

    def write(self, identity: str, start: int, data: memoryview, content_bytes: int) -> bool:
        """Keep whole blocks from offset *start* on, all in one segment; False if there is no room for them."""
        number, offset = divmod(start, SEGMENT_BYTES)
        try:
            segment = self._opened.get((identity, number))
            if segment is None or segment.is_evicted:
                segment = self._open(identity, number, content_bytes, may_make=True)
            if segment is not None and segment.is_cut():
                with self._lock:  # gone for good: other processes may know blocks of it
                    self._forget(segment.name)
                segment = self._open(identity, number, content_bytes, may_make=True)
            if segment is None or not segment.write(offset // BLOCK_BYTES, data):
                return False
        except FileNotFoundError:  # somebody has removed the directory: the next write makes it again
            self._end()
            return False
        except OSError as error:
            self._warn(error)
            return False
        self._grow(segment, len(data))
        return not segment.is_evicted

    def missing(self, identity: str, start: int, end: int, content_bytes: int) -> tuple[int, int] | None:
        """Return the first run of bytes within [start, end), from block to block, that is not here; None if all is."""
        start -= start % BLOCK_BYTES
        first = None
        while start < end:
            number, offset = divmod(start, SEGMENT_BYTES)
            until = min(end, (number + 1) * SEGMENT_BYTES)
            segment = self.find(identity, number, content_bytes)
            if segment is not None:
                here = segment.blocks[offset // BLOCK_BYTES : -(-(until - number * SEGMENT_BYTES) // BLOCK_BYTES)]
                skipped = 0
                if first is None:
                    skipped = here.find(MISSING)
                    if skipped < 0:
                        start = until
                        continue
                    first = start + skipped * BLOCK_BYTES
                rest = here[skipped:]
                run = len(rest) - len(rest.lstrip(_MISSING))
                if run < len(rest):
                    return first, start + (skipped + run) * BLOCK_BYTES
            elif first is None:
                first = start
            start = until
        return None if first is None else (first, end)

    def has_any(self, identity: str, content_bytes: int) -> bool:
        """Tell whether something of a content is here. Looks at the files that there are, not at each that might be."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._root / segment_name(identity, 0).partition("/")[0]):
                known, _, number = name.rpartition(".")
                if known == identity and number.isdecimal() and int(number) < segments_of(content_bytes):
                    segment = self.find(identity, int(number), content_bytes)
                    if segment is not None and segment.blocks.strip(_MISSING):
                        return True
        return False

    def is_verified(self, identity: str, content_bytes: int) -> bool:
        """Tell whether all of a content is here and matched its checksum."""
        segments = (self.find(identity, number, content_bytes) for number in range(segments_of(content_bytes)))
        return all(segment is not None and segment.is_verified for segment in segments)

    def mark_verified(self, identity: str, content_bytes: int) -> None:
        """Remember that a content matched its checksum."""
        for number in range(segments_of(content_bytes)):
            segment = self.find(identity, number, content_bytes)
            if segment is not None:
                with contextlib.suppress(OSError):
                    segment.mark_verified()

    def leave(self, identity: str, content_bytes: int) -> None:
        """Let other processes write what is missing of a content."""
        opened: Iterable[tuple[str, int]] = ((identity, number) for number in range(segments_of(content_bytes)))
        if segments_of(content_bytes) > self._max_open:  # a size may be any number that Rescale lists
            with self._lock:
                opened = [key for key in self._opened if key[0] == identity]
        for key in opened:
            if (segment := self._opened.get(key)) is not None:
                segment.leave()

    def drop(self, identity: str, content_bytes: int) -> None:
        """Forget a content."""
        with self._lock:
            for number in range(segments_of(content_bytes)):
                self._forget(segment_name(identity, number))

    # ---- opening ----

    def _open(self, identity: str, number: int, content_bytes: int, *, may_make: bool) -> Segment | None:
        key = (identity, number)
        with self._lock:
            segment = self._opened.get(key)
            if segment is not None and not segment.is_evicted:
                return segment
            if self._users is None:
                if self._is_closed or not may_make:
                    return None
                self._begin()
            if may_make and not self._has_room(min(SEGMENT_BYTES, content_bytes)):
                return None
            try:
                segment = open_segment(self._root, identity, number, content_bytes, may_make=may_make)
            except OSError:
                if may_make:
                    raise
                segment = None  # what cannot be read is not here
            if segment is None:
                return None
            while len(self._opened) >= self._max_open:
                self._opened.pop(next(iter(self._opened)))
            self._opened[key] = segment
        return segment

    def _has_room(self, size: int) -> bool:
        """Tell whether the disk has room for a segment, after removing old ones for it if need be."""
        if size + DATA_AT > self.limit_bytes:
            return False
        while True:
            disk = os.statvfs(self._root)
            least_bytes = self._min_free_bytes
            if least_bytes is None:
                least_bytes = min(MIN_FREE_BYTES, disk.f_blocks * disk.f_frsize // _FREE_SHARE)
            if disk.f_bavail * disk.f_frsize >= least_bytes + size:
                return True
            if not self._sizes:
                self._warn(OSError("the disk is nearly full"))
                return False
            self._sizes.popitem()
            self._remove_evicted()

    # ---- order of use, and eviction ----

    def _note_use(self, segment: Segment, now: float) -> None:
        segment.noted_at = now
        if now - segment.noted_on_disk_at > _NOTED_ON_DISK_S:
            segment.noted_on_disk_at = now
            segment.note_use_on_disk()
        with self._lock:
            self._sizes.get(segment.name)

    def _grow(self, segment: Segment, count: int) -> None:
        """Count bytes that were written, and remove the segments that have to go for them."""
        with self._lock:
            if segment.is_evicted:
                return
            self._written_bytes += count
            size = self._sizes.pop(segment.name, DATA_AT) + -(-count // _PAGE_BYTES) * _PAGE_BYTES
            try:
                self._sizes[segment.name] = size
            except ValueError:  # it is larger than the whole cache
                self._evicted.append(segment.name)
            self._remove_evicted()
            if self._written_bytes > self.limit_bytes // _RESCAN_SHARE:
                self._written_bytes = 0
                if not self._is_alone():
                    try:
                        self._scan()
                    except OSError as error:
                        self._warn(error)

    def _scan(self) -> None:
        """Look at the directory: another process may have written or removed segments."""
        found = []
        for directory in os.scandir(self._root):
            if not directory.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):  # gone, or nobody's business
                for entry in os.scandir(directory.path):
                    with contextlib.suppress(FileNotFoundError):  # removed by another process just now
                        info = entry.stat(follow_symlinks=False)
                        found.append((info.st_mtime_ns, f"{directory.name}/{entry.name}", info.st_blocks * 512))
        self._sizes = _Sizes(self.limit_bytes, self._evicted)
        for _, name, size in sorted(found):
            try:
                self._sizes[name] = size
            except ValueError:
                self._evicted.append(name)
        self._remove_evicted()

    def _is_alone(self) -> bool:
        """Tell whether no other process uses the cache now."""
        if self._users is None:
            return True
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = True
        except OSError:
            is_alone = False
        with contextlib.suppress(OSError):
            fcntl.flock(self._users, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return is_alone

    def _remove_evicted(self) -> None:
        evicted, self._evicted[:] = list(self._evicted), []
        for name in evicted:
            self._remove(name)

    def _forget(self, name: str) -> None:
        self._sizes.pop(name, None)
        self._remove(name)

    def _remove(self, name: str) -> None:
        identity, _, number = name.partition("/")[2].rpartition(".")
        segment = self._opened.pop((identity, int(number)), None) if number.isdecimal() else None
        if segment is not None:
            segment.is_evicted = True
        with contextlib.suppress(OSError):
            remove_inside(self._root, name)

    def _warn(self, error: OSError) -> None:
        with self._lock:
            is_first, self._has_warned = not self._has_warned, True
        if is_first:
            log.warning("the cache %s cannot be written (%s); reads go on without it", self._root, error)


class _Sizes(LRUCache[str, int]):
    """Segment sizes by name, in order of use; what falls out is noted for its file to be removed."""

    def __init__(self, limit_bytes: int, evicted: list[str]) -> None:
        super().__init__(limit_bytes, getsizeof=lambda size: size)
        self._noted = evicted

    def popitem(self) -> tuple[str, int]:
        name, size = super().popitem()
        self._noted.append(name)
        return name, size
