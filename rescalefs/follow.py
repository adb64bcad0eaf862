"""Files of live runs: read whole by `tail`, kept in a spool, served as honest growing files.

Size and bytes of a live file are known only by reading it, so a look at its size is a read into its spool.
Bytes once served never change and the size only grows: when the file shrank or was replaced, the spool starts a new
generation, and handles of the old one get `Stale`, but for a read at offset 0, which moves the handle to the new one.

Asking is driven by use: a stat or a read at the end of what is known asks again, at most every `poll_s` seconds,
shared by all readers of the file; when nobody looks, nobody asks.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import NamedTuple, Protocol

from cachetools import LRUCache

from rescalefs.errors import RescaleError, Stale
from rescalefs.loader import Loader
from rescalefs.timing import Clock

log = logging.getLogger(__name__)

# The API documents no rhythm; Rescale's own samples poll every 1 to 15 s.
POLL_S = 2.0
# How long a stat waits for news when an older answer is there: a usual round trip, and less than tail's own second.
PATIENCE_S = 0.5
# A tail may have to bring gigabytes; it ends by this whatever comes.
TRANSFER_S = 600.0
# Live files whose spools are kept: those of a run that somebody looks through.
MAX_FILES = 4096
_COMPARE_BYTES = 256 * 1024


class TailStream(Protocol):
    """What `Source.tail` returns: bytes as they come."""

    def readinto(self, buffer: memoryview) -> int:
        """Place the next bytes and return their number, 0 at the end."""

    def close(self) -> None:
        """End the transfer."""


class Source(Protocol):
    """Where live bytes come from."""

    def tail(self, job_id: str, run_id: str, path: str, *, deadline_at: float) -> TailStream:
        """Begin to read a live file from its first byte."""


class LiveKey(NamedTuple):
    """Names one live file; `path` is the API's."""

    job_id: str
    run_id: str
    path: str


class Spool:
    """One generation of a live file: an unnamed file on disk that is only ever appended to.

    Threads: one appends, any read. `size` is set after the bytes are there. The file goes with the last reference.
    """

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115  # lives as long as the spool
        weakref.finalize(self, self._file.close)
        self.size = 0

    def append(self, data: memoryview) -> None:
        """Add bytes at the end."""
        written = 0
        while written < len(data):
            written += os.pwrite(self._file.fileno(), data[written:], self.size + written)
        self.size += len(data)

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes [offset, offset + size), fewer at the end."""
        return os.pread(self._file.fileno(), max(0, min(size, self.size - offset)), offset)

    def starts_like(self, offset: int, data: memoryview) -> int:
        """Return how many of the first bytes of *data* equal the spool's from *offset* on."""
        known = self.read(offset, len(data))
        if known == data[: len(known)]:
            return len(known)
        return next(i for i, (ours, theirs) in enumerate(zip(known, data, strict=False)) if ours != theirs)


class LiveFile:
    """One live file, shared by all who look at it. Threads: any; one fetch at a time (the loader's single flight)."""

    def __init__(self, key: LiveKey, follower: Follower) -> None:
        self.key = key
        self._follower = follower
        # Written by the one fetch in flight and read by anyone; each assignment is atomic and true by itself.
        self.spool: Spool | None = None
        self.changed_ns = 0
        self.asked_at = float("-inf")

    def size(self) -> int:
        """Return the size as of at most `poll_s` ago, or the last known while the API is slow to answer.

        Raises:
            DeadlineExceeded: nothing is known and nothing came in time. Never a guess, never 0 for the unknown.
        """
        self.look(PATIENCE_S)
        assert self.spool is not None
        return self.spool.size

    def look(self, patience_s: float) -> None:
        """Have the file fetched if what is known is old; wait for it, but with something known only *patience_s*."""
        flight = self._follower.fetch_if_old(self)
        if flight is None:
            return
        if self.spool is None:
            self._follower.wait(flight, self)
        else:  # a fetch that fails has said so in the log; what is known is still true
            wait([flight], patience_s)


class LiveHandle:
    """An open live file. Threads: any."""

    def __init__(self, file: LiveFile) -> None:
        self._file = file
        self._spool = file.spool

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes [offset, offset + size) as far as the file goes now.

        Raises:
            Stale: the file shrank or was replaced since this handle read it; a read at offset 0 starts over.
        """
        if self._spool is None or offset + size > self._spool.size:
            self._file.look(PATIENCE_S)
        spool = self._file.spool
        assert spool is not None
        if self._spool is not spool:
            if offset != 0 and self._spool is not None:
                raise Stale(f"live file {self._file.key.path} was truncated or replaced")
            self._spool = spool
        return spool.read(offset, size)


class Follower:
    """Keeps the live files that somebody looks at. Threads: any."""

    def __init__(
        self,
        source: Source,
        loader: Loader,
        spool_directory: Callable[[], Path],
        *,
        poll_s: float = POLL_S,
        clock: Clock = time.monotonic,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._source = source
        self._loader = loader
        self._spool_directory = spool_directory
        self._poll_s = poll_s
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._lock = threading.Lock()  # guards _files; nothing else is done under it
        self._files: LRUCache[LiveKey, LiveFile] = LRUCache(MAX_FILES)

    def file(self, key: LiveKey) -> LiveFile:
        """Return the live file of *key*; asks nothing."""
        with self._lock:
            file = self._files.get(key)
            if file is None:
                file = self._files[key] = LiveFile(key, self)
            return file

    def open(self, key: LiveKey) -> LiveHandle:
        """Open a live file, fetching it if it was never seen.

        Raises:
            DeadlineExceeded, Unavailable, NotFound: it cannot be read now.
        """
        file = self.file(key)
        file.look(PATIENCE_S)
        return LiveHandle(file)

    def fetch_if_old(self, file: LiveFile) -> Future[None] | None:
        """Start or join a fetch of *file* if what is known is older than the poll interval."""
        return self._loader.begin(("tail", file.key), lambda: self._fetch(file)) if self._is_old(file) else None

    def wait(self, flight: Future[None], file: LiveFile) -> None:
        """Wait for the first sight of *file*, as long as a caller may wait."""
        self._loader.result(flight, f"live file {file.key.path}")

    def _is_old(self, file: LiveFile) -> bool:
        return file.spool is None or self._clock() - file.asked_at >= self._poll_s

    def _fetch(self, file: LiveFile) -> None:
        """Read the whole file and bring its spool up to date; runs once at a time for a file."""
        if not self._is_old(file):
            return  # another fetch has ended since the caller looked
        try:
            stream = self._source.tail(*file.key, deadline_at=self._clock() + TRANSFER_S)
            try:
                self._merge(file, stream)
            finally:
                stream.close()
        except RescaleError as error:
            log.warning("live file %s of run %s of job %s: %s", file.key.path, file.key.run_id, file.key.job_id, error)
            raise
        finally:
            file.asked_at = self._clock()

    def _merge(self, file: LiveFile, stream: TailStream) -> None:
        spool = file.spool
        if spool is None:
            spool = Spool(self._spool_directory())
        buffer = memoryview(bytearray(_COMPARE_BYTES))
        offset = 0
        while count := stream.readinto(buffer):
            data = buffer[:count]
            if offset < spool.size:
                same = spool.starts_like(offset, data)
                if offset + same < min(spool.size, offset + count):
                    spool = self._replaced(file, spool, offset + same)
                offset += same
                data = data[same:]
            if data:
                spool.append(data)
                if spool is file.spool:  # seen at once, whatever becomes of the rest
                    file.changed_ns = self._wall_clock_ns()
            offset += len(data)
        if offset < spool.size:
            spool = self._replaced(file, spool, offset)
        if spool is not file.spool:
            file.changed_ns = self._wall_clock_ns()
            file.spool = spool

    def _replaced(self, file: LiveFile, old: Spool, same: int) -> Spool:
        """Begin a new generation that shares the first *same* bytes with the old one."""
        log.info("live file %s was truncated or replaced; starting over", file.key.path)
        new = Spool(self._spool_directory())
        for offset in range(0, same, _COMPARE_BYTES):
            new.append(memoryview(old.read(offset, min(_COMPARE_BYTES, same - offset))))
        return new
