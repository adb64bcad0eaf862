"""The bytes of final files: fetched by blocks when they are read, verified, kept on disk.

Identity is the strongest checksum and the size, so equal files of different runs are fetched and stored once;
a file without a checksum is known by account, file id and size.
A file of up to 4 MiB comes in one request and is verified before its first byte is served: a wrong one is fetched once
more, then it is an error. A larger one is verified when its last block has come: if it is wrong, that read is an
error, and its blocks are dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import Protocol

from cachetools import LRUCache

from rescalefs.cache import DiskCache
from rescalefs.errors import Corrupt, NotFound, Stale, Unavailable
from rescalefs.loader import Loader
from rescalefs.models import RemoteFile
from rescalefs.timing import Clock, remaining_s

log = logging.getLogger(__name__)

# One request brings a block: large enough for a round trip to pay, small enough for a look at a header.
BLOCK_BYTES = 1 << 20
# Files up to this size come in one request and are verified before their first byte is served.
WHOLE_BYTES = 4 << 20
# Times that a block is asked for when its transfer is cut.
ATTEMPTS = 4
_THREADS = 16


class ContentStream(Protocol):
    """An answer to a request for bytes, read as it comes."""

    start: int
    total: int | None

    def readinto(self, buffer: memoryview) -> int:
        """Place the next bytes and return their number, 0 at the end."""

    def close(self) -> None:
        """End the transfer."""


class ContentSource(Protocol):
    """Where bytes come from."""

    def contents(self, file_id: str, start: int, end: int | None, *, deadline_at: float) -> ContentStream:
        """Begin to read bytes [start, end) of a file."""


class ContentHandle:
    """An open file. Equal `identity` means equal bytes. Threads: any."""

    def __init__(self, engine: ContentEngine, file: RemoteFile) -> None:
        self._engine = engine
        self._file = file
        self.identity = engine.identity(file)
        self.size = file.size

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes [offset, offset + size), fewer only at the end of the file.

        Raises:
            Stale: the file is gone.
            Corrupt: what came does not match the file's checksum, twice.
            Unavailable, AccessDenied, DeadlineExceeded: the bytes cannot be had.
        """
        end = min(offset + size, self.size)
        parts = []
        while offset < end:
            number, within = divmod(offset, BLOCK_BYTES)
            block = self._engine.block(self._file, self.identity, number)
            parts.append(block[within : within + end - offset])
            offset += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Let go of the file."""


class ContentEngine:
    """Reads final files through the cache. Threads: any; requests run on threads of its own."""

    def __init__(
        self,
        cache: DiskCache,
        source: ContentSource,
        *,
        account: str,
        deadline_s: float = 60.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._cache = cache
        self._source = source
        self._account = account
        self._deadline_s = deadline_s
        self._clock = clock
        self._loader = Loader("content", _THREADS, deadline_s)
        self._lock = threading.Lock()  # guards _recent and _counts; nothing else is done under it
        # Blocks just used, so that the eight 128 KiB reads of one block cost one look at the disk.
        self._recent: LRUCache[tuple[str, int], bytes] = LRUCache(64 << 20, getsizeof=len)
        self._counts = {"content.hits": 0, "content.misses": 0, "content.fetched_bytes": 0}

    def start(self) -> None:
        """Make the threads and look at what the cache has."""
        self._cache.start()
        self._loader.start()

    def close(self) -> None:
        """Let waiting readers fail and end the threads."""
        self._loader.close()

    def open(self, file: RemoteFile) -> ContentHandle:
        """Open a file; asks nothing."""
        return ContentHandle(self, file)

    def size(self, file: RemoteFile) -> int:
        """Return the size to show."""
        return file.size

    def state(self, file: RemoteFile) -> str:
        """Return how much of a file is here: remote, partial, cached or verified."""
        identity = self.identity(file)
        there = self._cache.blocks(identity)
        if there < _blocks_of(file.size):
            return "partial" if there else "remote"
        return "verified" if self._cache.is_verified(identity) else "cached"

    def stats(self) -> Mapping[str, int]:
        """Return counters for `.rescale/stats`."""
        with self._lock:
            return dict(self._counts)

    def identity(self, file: RemoteFile) -> str:
        """Return what names the content of a file, as a file name."""
        known_by = f"{file.digest.algorithm}:{file.digest.value.hex()}" if file.digest else f"{self._account}:{file.id}"
        return hashlib.blake2b(f"{known_by}:{file.size}".encode(), digest_size=20).hexdigest()

    def block(self, file: RemoteFile, identity: str, number: int) -> bytes:
        """Return one block, from memory, from disk, or from the source."""
        key = (identity, number)
        with self._lock:
            data = self._recent.get(key)
        if data is None:
            data = self._cache.get(identity, number)
            if data is not None and len(data) == _block_size(file.size, number):
                self._keep(key, data)
            else:
                data = None
        self._count("content.misses" if data is None else "content.hits", 1)
        if data is not None:
            return data
        is_whole = file.size <= WHOLE_BYTES
        flight: tuple[str, int] = (identity, 0 if is_whole else number)
        blocks: Mapping[int, bytes] = self._loader.load(
            flight,
            lambda: self._fetch_whole(file, identity) if is_whole else self._fetch_block(file, identity, number),
            f"file {file.id}",
        )
        return blocks[number]

    def _fetch_whole(self, file: RemoteFile, identity: str) -> Mapping[int, bytes]:
        """Fetch a small file in one request and verify it before anybody sees it; once more if it is wrong."""
        for attempt in (1, 2):
            data = self._fetch(file, 0, file.size)
            digest = file.digest
            if digest is None or hashlib.new(digest.algorithm, data).digest() == digest.value:
                break
            log.log(
                logging.ERROR if attempt == 2 else logging.WARNING,
                "file %s (%s) does not match its %s",
                file.id,
                file.path,
                digest.algorithm,
            )
        else:
            raise Corrupt(f"file {file.id} ({file.path}) does not match its checksum, twice")
        blocks = {n: data[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES] for n in range(_blocks_of(file.size))}
        for number, block in blocks.items():
            self._cache.put(identity, number, block)
            self._keep((identity, number), block)
        if file.digest is not None:
            self._cache.mark_verified(identity)
        return blocks

    def _fetch_block(self, file: RemoteFile, identity: str, number: int) -> Mapping[int, bytes]:
        start = number * BLOCK_BYTES
        block = self._fetch(file, start, start + _block_size(file.size, number))
        self._cache.put(identity, number, block)
        self._keep((identity, number), block)
        if file.digest is not None and self._cache.blocks(identity) == _blocks_of(file.size):
            self._verify(file, identity)
        return {number: block}

    def _verify(self, file: RemoteFile, identity: str) -> None:
        """Check a large file once all its blocks are here; a wrong one loses them, and its readers get an error."""
        assert file.digest is not None
        if self._cache.is_verified(identity):
            return
        sums = hashlib.new(file.digest.algorithm)
        for number in range(_blocks_of(file.size)):
            data = self._cache.get(identity, number)
            if data is None:
                return  # evicted meanwhile
            sums.update(data)
        if sums.digest() == file.digest.value:
            self._cache.mark_verified(identity)
            return
        for number in range(_blocks_of(file.size)):
            self._cache.drop(identity, number)
            with self._lock:
                self._recent.pop((identity, number), None)
        raise Corrupt(f"file {file.id} ({file.path}) does not match its {file.digest.algorithm}")

    def _fetch(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Return bytes [start, end) from the source, asking again for the rest when a transfer is cut.

        Raises: as `ContentHandle.read`.
        """
        deadline_at = self._clock() + self._deadline_s
        data = memoryview(bytearray(end - start))
        have = 0
        for _ in range(ATTEMPTS):
            try:
                have += self._receive(file, start + have, data[have:], deadline_at)
            except NotFound as error:
                raise Stale(f"file {file.id} ({file.path}) is gone: {error}") from None
            if have == len(data):
                self._count("content.fetched_bytes", have)
                return bytes(data)
            remaining_s(deadline_at, f"file {file.id}", self._clock)
            log.info("file %s: cut after byte %d; asking for the rest", file.id, start + have)
        raise Unavailable(f"file {file.id} ({file.path}): the transfer was cut {ATTEMPTS} times")

    def _receive(self, file: RemoteFile, start: int, data: memoryview, deadline_at: float) -> int:
        """Fill *data* with the file's bytes from *start* on, as far as one answer goes; return how many came."""
        stream = self._source.contents(file.id, start, start + len(data), deadline_at=deadline_at)
        try:
            if stream.total is not None and stream.total != file.size:
                raise Corrupt(f"file {file.id} has {stream.total} bytes, {file.size} were listed")
            have = 0
            with contextlib.suppress(Unavailable):  # cut: what came is good, the rest is asked for again
                _discard(stream, start - stream.start)  # a server that ignores ranges sends all from the beginning
                while have < len(data) and (count := stream.readinto(data[have:])):
                    have += count
            return have
        finally:
            stream.close()

    def _keep(self, key: tuple[str, int], data: bytes) -> None:
        with self._lock:
            self._recent[key] = data

    def _count(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] += number


def _discard(stream: ContentStream, count: int) -> None:
    """Read and drop *count* bytes."""
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max(0, count))))
    while count > 0 and (got := stream.readinto(buffer[:count])):
        count -= got


def _blocks_of(size: int) -> int:
    return -(-size // BLOCK_BYTES)


def _block_size(size: int, number: int) -> int:
    return min(BLOCK_BYTES, size - number * BLOCK_BYTES)
