"""Where blocks rest: on disk, or in memory as long as the disk has no room for them. Threads: any."""

from __future__ import annotations

import threading

from cachetools import LRUCache

from rescalefs.content.cache import DiskCache
from rescalefs.content.segment import BLOCK_BYTES, SEGMENT_BYTES

# Blocks held for their readers when they cannot be written to disk.
MEMORY_BYTES = 64 << 20


class Store:
    """Blocks of contents by identity and offset."""

    def __init__(self, disk: DiskCache, memory_bytes: int = MEMORY_BYTES) -> None:
        self.disk = disk
        self._memory_bytes = memory_bytes
        self._is_disk_used = True  # by the last write
        self._lock = threading.Lock()  # guards _memory; nothing else is done under it
        self._memory: LRUCache[tuple[str, int], bytes] = LRUCache(memory_bytes, getsizeof=len)

    @property
    def room_bytes(self) -> int:
        """How much can be kept, about."""
        is_disk_used = self._is_disk_used and self.disk.limit_bytes > SEGMENT_BYTES
        return self.disk.limit_bytes if is_disk_used else self._memory_bytes

    def readinto(self, identity: str, start: int, buffer: memoryview, content_bytes: int) -> bool:
        """Fill *buffer* with the bytes of a content from *start* on; False if not all of them are here."""
        if self.disk.readinto(identity, start, buffer, content_bytes):
            return True
        if not self._memory:
            return False
        while buffer:
            block, offset = divmod(start, BLOCK_BYTES)
            part = buffer[: BLOCK_BYTES - offset]
            with self._lock:
                kept = self._memory.get((identity, block))
            if kept is not None:
                part[:] = kept[offset : offset + len(part)]
            elif not self.disk.readinto(identity, start, part, content_bytes):
                return False
            start, buffer = start + len(part), buffer[len(part) :]
        return True

    def expect(self, identity: str, start: int, end: int, content_bytes: int) -> None:
        """Have the disk read ahead what it holds of these bytes."""
        self.disk.expect(identity, start, end, content_bytes)

    def read(self, identity: str, start: int, end: int, content_bytes: int) -> bytes | None:
        """Return bytes [start, end) of a content, None if not all of them are here."""
        buffer = bytearray(end - start)
        return bytes(buffer) if self.readinto(identity, start, memoryview(buffer), content_bytes) else None

    def write(self, identity: str, start: int, data: memoryview, content_bytes: int) -> None:
        """Keep whole blocks from offset *start* on (the last one of a content may be short)."""
        while data:
            count = min(len(data), SEGMENT_BYTES - start % SEGMENT_BYTES)
            self._is_disk_used = self.disk.write(identity, start, data[:count], content_bytes)
            if not self._is_disk_used:
                with self._lock:
                    for at in range(0, count, BLOCK_BYTES):
                        self._memory[identity, (start + at) // BLOCK_BYTES] = bytes(
                            data[at : min(at + BLOCK_BYTES, count)]
                        )
            start, data = start + count, data[count:]

    def missing(self, identity: str, start: int, end: int, content_bytes: int) -> tuple[int, int] | None:
        """Return the first run of bytes within [start, end), from block to block, that is not here; None if all is."""
        run = self.disk.missing(identity, start, end, content_bytes)
        if run is None or not self._memory:
            return run
        first, last = run[0] // BLOCK_BYTES, -(-run[1] // BLOCK_BYTES)
        with self._lock:
            gaps = [block for block in range(first, last) if (identity, block) not in self._memory]
        if not gaps:
            return self.missing(identity, run[1], end, content_bytes) if run[1] < end else None
        length = next((n for n, block in enumerate(gaps) if block != gaps[0] + n), len(gaps))
        return gaps[0] * BLOCK_BYTES, min(run[1], (gaps[0] + length) * BLOCK_BYTES)

    def has_all(self, identity: str, start: int, content_bytes: int) -> bool:
        """Tell whether all of a content from offset *start* on is here; it ends at the first gap."""
        while start < content_bytes:
            until = min(content_bytes, (start // SEGMENT_BYTES + 1) * SEGMENT_BYTES)
            if self.missing(identity, start, until, content_bytes) is not None:
                return False
            start = until
        return True

    def has_any(self, identity: str, content_bytes: int) -> bool:
        """Tell whether something of a content is here."""
        with self._lock:
            if any(known == identity for known, _ in self._memory):
                return True
        return self.disk.has_any(identity, content_bytes)

    def drop(self, identity: str, content_bytes: int) -> None:
        """Forget a content."""
        self.disk.drop(identity, content_bytes)
        with self._lock:
            for block in range(-(-content_bytes // BLOCK_BYTES)):
                self._memory.pop((identity, block), None)
