"""The bytes of final files: fetched by blocks, verified, kept on disk.

Identity is the strongest checksum and the size, so equal files of different runs are fetched and stored once;
a file without a checksum is known by account, file id and size.

    <directory>/v1/<identity>/<number>     one block: 8 bytes xxh3 of its data, then the data
    <directory>/v1/<identity>/verified     there once the whole file matched its checksum
    <directory>/v1/new/                    blocks being written

Crash safety: a block is written under `new` and renamed; its checksum is looked at on the first read in a process.
A damaged, vanished or foreign block is a miss, and a disk that is full means less caching: the cache may slow a read,
never falsify or fail it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import xxhash
from cachetools import LRUCache

from rescalefs.errors import Corrupt, NotFound, Stale, Unavailable
from rescalefs.loader import Loader
from rescalefs.models import RemoteFile
from rescalefs.timing import Clock

log = logging.getLogger(__name__)

# One request brings a block: large enough for a round trip to pay, small enough for a look at a header.
BLOCK_BYTES = 1 << 20
# Files up to this size come in one request and are verified before their first byte is served.
WHOLE_BYTES = 4 << 20
# The cache leaves at least this much of the disk to others.
MIN_FREE_BYTES = 1 << 30
# Times that a block is asked for when its transfer is cut.
ATTEMPTS = 4
_SUM_BYTES = 8
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


class DiskCache:
    """Blocks on disk, at most `limit_bytes` of them; the least recently used go first. Threads: any."""

    def __init__(self, directory: Path, limit_bytes: int, *, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        self._root = directory / "v1"
        self._new = self._root / "new"
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()  # guards _sizes and _checked; no disk I/O is done under it
        self._evicted: list[str] = []
        self._sizes = _Sizes(limit_bytes, self._evicted)
        self._checked: set[str] = set()
        self._has_warned = False

    def start(self) -> None:
        """Learn what is there, oldest use first."""
        try:
            self._new.mkdir(mode=0o700, parents=True, exist_ok=True)
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
            (self._root / identity).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._new.mkdir(mode=0o700, exist_ok=True)
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
            (self._root / identity).mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._root / identity / "verified").touch(mode=0o600)

    def is_verified(self, identity: str) -> bool:
        """Tell whether the whole content matched its checksum once."""
        return (self._root / identity / "verified").exists()

    def blocks(self, identity: str) -> int:
        """Return how many blocks of a content are there."""
        with contextlib.suppress(OSError):
            return sum(name.isdigit() for name in os.listdir(self._root / identity))
        return 0

    def _learn(self, name: str, size: int) -> None:
        with self._lock, contextlib.suppress(ValueError):  # ValueError: larger than the whole cache
            self._sizes[name] = size
        with self._lock:
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
        self._loader.load(
            flight,
            lambda: self._fetch_whole(file, identity) if is_whole else self._fetch_block(file, identity, number),
            f"file {file.id}",
        )
        with self._lock:
            data = self._recent.get(key)
        return data if data is not None else self.block(file, identity, number)

    def _fetch_whole(self, file: RemoteFile, identity: str) -> None:
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
        for number in range(_blocks_of(file.size)):
            block = data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
            self._cache.put(identity, number, block)
            self._keep((identity, number), block)
        if file.digest is not None:
            self._cache.mark_verified(identity)

    def _fetch_block(self, file: RemoteFile, identity: str, number: int) -> None:
        start = number * BLOCK_BYTES
        block = self._fetch(file, start, start + _block_size(file.size, number))
        self._cache.put(identity, number, block)
        self._keep((identity, number), block)
        if file.digest is not None and self._cache.blocks(identity) == _blocks_of(file.size):
            self._verify(file, identity)

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
        """Return bytes [start, end) from the source, asking again for the rest when a transfer is cut."""
        deadline_at = self._clock() + self._deadline_s
        data = memoryview(bytearray(end - start))
        have = 0
        for attempt in range(1, ATTEMPTS + 1):
            try:
                have += self._receive(file, start + have, data[have:], deadline_at)
                if have == len(data):
                    self._count("content.fetched_bytes", have)
                    return bytes(data)
                raise Corrupt(f"file {file.id} ends after {start + have} of {file.size} bytes")
            except NotFound as error:
                raise Stale(f"file {file.id} ({file.path}) is gone: {error}") from None
            except Unavailable as error:
                if attempt == ATTEMPTS or self._clock() >= deadline_at:
                    raise
                log.info("%s; asking again", error)
        raise AssertionError  # the last attempt returned or raised

    def _receive(self, file: RemoteFile, start: int, data: memoryview, deadline_at: float) -> int:
        """Fill *data* with the file's bytes from *start* on as far as one answer goes; return how many came."""
        stream = self._source.contents(file.id, start, start + len(data), deadline_at=deadline_at)
        try:
            if stream.total is not None and stream.total != file.size:
                raise Corrupt(f"file {file.id} has {stream.total} bytes, {file.size} were listed")
            for _ in _discarded(stream, start - stream.start):
                pass  # a server that ignores ranges sends the file from its beginning
            have = 0
            with contextlib.suppress(Unavailable):
                while have < len(data) and (count := stream.readinto(data[have:])):
                    have += count
                return have
            return have or self._nothing(file)
        finally:
            stream.close()

    @staticmethod
    def _nothing(file: RemoteFile) -> int:
        raise Unavailable(f"file {file.id}: the transfer was cut before its first byte")

    def _keep(self, key: tuple[str, int], data: bytes) -> None:
        with self._lock:
            self._recent[key] = data

    def _count(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] += number


def _discarded(stream: ContentStream, count: int) -> Iterator[int]:
    """Read and drop *count* bytes."""
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max(0, count))))
    while count > 0:
        got = stream.readinto(buffer[:count])
        if not got:
            return
        count -= got
        yield got


def _blocks_of(size: int) -> int:
    return -(-size // BLOCK_BYTES)


def _block_size(size: int, number: int) -> int:
    return min(BLOCK_BYTES, size - number * BLOCK_BYTES)
