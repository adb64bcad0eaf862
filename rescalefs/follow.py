"""Files of live runs: read by `tail`, kept in a spool, served as honest growing files.

Size and bytes of a live file are known only by reading it, so a look at its size is a read into its spool.
Bytes once served never change and the size only grows: when the file shrank or was replaced, the spool starts a new
generation, and handles of the old one get `Stale`, but for a read at offset 0, which moves the handle to the new one.

Asking is driven by use: a stat or a read at the end of what is known asks again, at most every `poll_s` seconds,
shared by all readers of the file, and less often while asking fails or is slow; when nobody looks, nobody asks.

When the run ends, `tail` is dead. A file that is open goes on in the final one that was uploaded in its place, if that
begins with every byte of the spool; until then its end is where the spool ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Protocol

from cachetools import LRUCache

from rescalefs.errors import KeyRefused, Offline, RescaleError, Stale
from rescalefs.loader import Loader
from rescalefs.patience import Patience
from rescalefs.spool import PIECE_BYTES, Spool
from rescalefs.tailing import BEGIN_S, TRANSFER_S, LiveKey, Source, Tailed, Tailer
from rescalefs.timing import Clock, patience_s, remaining_s

log = logging.getLogger(__name__)

# The API documents no rhythm; Rescale's own samples poll every 1 to 15 s.
POLL_S = 2.0
# From the second failure in a row on each one doubles the wait, so often: one that has ended is asked once a minute.
MAX_DOUBLINGS = 5
# How long a stat waits for news when an older answer is there: a usual round trip, and less than tail's own second.
PATIENCE_S = 0.5
# Live files whose spools are kept: those of a run that somebody looks through.
MAX_FILES = 4096
# So many files of a run that were waited for in vain, one after the other, stand for all of it.
SILENT_FILES = 2
# Runs of which it is known whether their files come.
_MAX_RUNS = 1000


class Final(Protocol):
    """The uploaded file that takes a live one's place."""

    @property
    def size(self) -> int:
        """Its size."""

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes [offset, offset + size), fewer at the end."""

    def close(self) -> None:
        """Let go of it."""


class _Ended:
    """The last generation: the final file. `continues` is the spool whose bytes it begins with, if it does."""

    def __init__(self, final: Final, continues: Spool | None) -> None:
        self.size = final.size
        self.read = final.read
        self.close = final.close
        self.continues = continues


class _Run:
    """A run as far as its files come; the number of looks that brought something is approximate."""

    def __init__(self, clock: Clock) -> None:
        self.seen = 0
        self.patience = Patience(lambda: self.seen, SILENT_FILES, clock=clock)


class LiveFile:
    """One live file, shared by all who look at it. Threads: any; one fetch at a time (the loader's single flight)."""

    def __init__(self, key: LiveKey, follower: Follower) -> None:
        self.key = key
        self._follower = follower
        # Written by the one fetch in flight and read by anyone; each assignment is atomic and true by itself.
        self.tailed = Tailed(key)
        self.ended: _Ended | None = None
        self.due_at = float("-inf")  # from when on a look asks
        self.failures = 0  # in a row
        self.failed_at = float("-inf")  # when the last look that failed began

    def __str__(self) -> str:
        return f"live file {self.key.path} of run {self.key.run_id} of job {self.key.job_id}"

    @property
    def known(self) -> Spool | _Ended | None:
        """The newest generation, None before the first sight."""
        return self.ended or self.tailed.spool

    @property
    def changed_ns(self) -> int:
        """When it was last seen to change."""
        return self.tailed.changed_ns

    @property
    def spool_bytes(self) -> int:
        """What its spool takes of the disk."""
        spool = self.tailed.spool
        return spool.size if spool is not None else 0

    def size(self) -> int:
        """Return the size as of at most `poll_s` ago, or the last known while the API is slow to answer.

        Raises:
            DeadlineExceeded: nothing is known and nothing came in time. Never a guess, never 0 for the unknown.
        """
        self.look()
        assert self.known is not None
        return self.known.size

    def look(self) -> None:
        """Have the file fetched if what is known is old; wait for it, but with something known only a moment."""
        if self.known is None:
            self._follower.see(self)
        elif flight := self._follower.fetch_if_old(self):
            # A fetch that fails has said so in the log; what is known is still true.
            wait([flight], patience_s(PATIENCE_S))


class LiveHandle:
    """An open live file. Threads: any."""

    def __init__(self, file: LiveFile, close: Callable[[], None]) -> None:
        self._file = file
        self._known = file.known
        self.close = close

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes [offset, offset + size) as far as the file goes now.

        Raises:
            Stale: the file shrank or was replaced since this handle read it; a read at offset 0 starts over.
        """
        known = self._known
        if known is None or offset + size > known.size:
            self._file.look()
        newest = self._file.known
        assert newest is not None
        if newest is not known:
            is_continued = isinstance(newest, _Ended) and newest.continues is known
            if offset != 0 and known is not None and not is_continued:
                raise Stale(f"live file {self._file.key.path} was truncated or replaced")
            self._known = newest
        return newest.read(offset, size)


class Follower:
    """Keeps the live files that somebody looks at. Threads: any.

    *successor* returns the uploaded file that has taken a live one's place, None while there is none. It is called
    on the loader's threads. Spools take *max_bytes* of the disk and *max_files* descriptors; those of files that are
    open are kept all the same.
    The first look at a file, for which somebody waits, gets an answer in *deadline_s* or fails.
    """

    def __init__(
        self,
        source: Source,
        loader: Loader,
        spool_directory: Callable[[], Path],
        *,
        successor: Callable[[LiveKey], Final | None] = lambda _key: None,
        max_bytes: float = float("inf"),
        deadline_s: float = BEGIN_S,
        max_files: int = MAX_FILES,
        poll_s: float = POLL_S,
        clock: Clock = time.monotonic,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._loader = loader
        self._successor = successor
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._poll_s = poll_s
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._lock = threading.Lock()  # guards the four below; nothing else is done under it
        self._runs: LRUCache[tuple[str, str], _Run] = LRUCache(_MAX_RUNS)
        self._files: OrderedDict[LiveKey, LiveFile] = OrderedDict()  # those looked at last come last
        self._open: dict[LiveKey, LiveFile] = {}  # those with handles are never forgotten
        self._handles: Counter[LiveKey] = Counter()
        self._tailer = Tailer(source, spool_directory, clock, wall_clock_ns, deadline_s)

    def file(self, key: LiveKey) -> LiveFile:
        """Return the live file of *key*; asks nothing."""
        with self._lock:
            file = self._open.get(key) or self._files.get(key) or LiveFile(key, self)
            self._files[key] = file
            self._files.move_to_end(key)
            if len(self._files) > self._max_files:
                self._files.popitem(last=False)
            return file

    def open(self, key: LiveKey) -> LiveHandle:
        """Open a live file, fetching it if it was never seen.

        Raises:
            DeadlineExceeded, Unavailable, NotFound: it cannot be read now.
        """
        while True:
            file = self.file(key)
            file.look()
            with self._lock:
                if key in self._open or file.ended is None:  # else its final file was let go of meanwhile
                    file = self._open.setdefault(key, file)
                    self._handles[key] += 1
                    return LiveHandle(file, lambda: self._close(key))

    def is_followed(self, key: LiveKey) -> bool:
        """Tell whether somebody has the file open and the final one has not taken its place."""
        with self._lock:
            file = self._open.get(key)
        return file is not None and file.ended is None

    def followed(self, job_id: str, run_id: str) -> list[str]:
        """Return the paths of the files of one run that are followed."""
        if not self._open:  # asked for every file of every listing
            return []
        with self._lock:
            return [key.path for key, file in self._open.items() if key[:2] == (job_id, run_id) and not file.ended]

    def stats(self) -> Mapping[str, int]:
        """Return counters for `.rescale/stats`."""
        return {f"live.{name}": number for name, number in self._tailer.counts.items()}

    def fetch_if_old(self, file: LiveFile) -> Future[None] | None:
        """Start or join a fetch of *file* if what is known is older than the poll interval."""
        return self._loader.begin(file, lambda: self._fetch(file), _run_of(file)) if self._is_old(file) else None

    def see(self, file: LiveFile) -> None:
        """Wait for the first sight of *file*, as long as a caller may wait, unless its run is known to be silent."""
        self._loader.load(file, lambda: self._see(file), f"live file {file.key.path}", _run_of(file))

    def _see(self, file: LiveFile) -> None:
        with self._run(file).patience.waiting(file.key.path):
            self._fetch(file)

    def _run(self, file: LiveFile) -> _Run:
        with self._lock:
            return self._runs.setdefault(_run_of(file), _Run(self._clock))

    def interval_s(self, file: LiveFile) -> float:
        """Return how long `tail` is not asked again: longer while it fails."""
        return self._poll_s * 2.0 ** min(max(0, file.failures - 1), MAX_DOUBLINGS)

    def _close(self, key: LiveKey) -> None:
        with self._lock:
            self._handles[key] -= 1
            if self._handles[key]:
                return
            del self._handles[key]
            file = self._open.pop(key)
            self._files[key] = file
            if file.ended is not None:
                del self._files[key]
        if file.ended is not None:
            file.ended.close()

    def _is_old(self, file: LiveFile) -> bool:
        if file.known is None:
            return True
        return file.ended is None and self._clock() >= file.due_at

    def _fetch(self, file: LiveFile) -> None:
        """Bring the spool of *file* up to date; runs once at a time for a file."""
        if not self._is_old(file):
            return  # another fetch has ended since the caller looked
        began = self._clock()
        try:
            is_failing = file.failures > 0 and file.known is not None
            if is_failing and (self._has_ended(file) or began - file.failed_at < self.interval_s(file)):
                return
            self._tailer.update(file.tailed)
            file.failures = 0
            self._run(file).seen += 1
        except RescaleError as error:
            file.failures += 1
            file.failed_at = began
            if self._has_ended(file):
                return
            # Who waits for a first sight is told himself; of no network and of a refused key others have told.
            is_told = file.known is None or isinstance(error, Offline | KeyRefused)
            level = logging.INFO if is_told or file.failures > 1 else logging.WARNING
            key = file.key
            log.log(level, "live file %s of run %s of job %s: %s", key.path, key.run_id, key.job_id, error)
            raise
        finally:
            ended = self._clock()
            # From question to question; but who is slow to answer is left alone for as long as that took.
            file.due_at = max(began + self._poll_s, ended + min(ended - began, self._poll_s))
            self._trim()

    def _trim(self) -> None:
        """Forget the files that nobody has looked at for longest, while all spools together are too large."""
        with self._lock:
            files = {**self._open, **self._files}
            left_bytes = self._max_bytes - sum(file.spool_bytes for file in files.values())
            while left_bytes < 0 and self._files:
                key, file = self._files.popitem(last=False)
                if key not in self._open:
                    left_bytes += file.spool_bytes

    def _has_ended(self, file: LiveFile) -> bool:
        """Let the final file take the place of a file that can be read no more, if it is there."""
        spool = file.tailed.spool
        if spool is None or not self.is_followed(file.key):
            return False
        final = None
        try:
            final = self._successor(file.key)
            if final is None:
                return False
            is_continued = not spool.is_lost and self._begins_with(final, spool)
        except RescaleError as error:
            log.info("the final file of %s cannot be read yet: %s", file.key.path, error)
            if final is not None:
                final.close()
            return False
        with self._lock:
            is_open = self._open.get(file.key) is file
            if is_open:
                file.ended = _Ended(final, spool if is_continued else None)
        if not is_open:  # everybody has left meanwhile, though others may have opened another of this key
            final.close()
            return False
        file.tailed.spool = None
        file.tailed.changed_ns = self._wall_clock_ns()
        if not is_continued:
            self._tailer.count_replaced(file.tailed)
        log.info("live file %s goes on as the final one", file.key.path)
        return True

    def _begins_with(self, final: Final, spool: Spool) -> bool:
        deadline_at = self._clock() + TRANSFER_S
        for offset in range(0, spool.size, PIECE_BYTES):
            remaining_s(deadline_at, f"the final file of {spool.size} bytes", self._clock)
            if final.read(offset, PIECE_BYTES)[: spool.size - offset] != spool.read(offset, PIECE_BYTES):
                return False
        return True


def _run_of(file: LiveFile) -> tuple[str, str]:
    return file.key.job_id, file.key.run_id
