"""Brings the spool of a live file up to date: in parts where that can be done, whole where it must.

Of a text that has grown long only what follows is asked for, with a bit of what is known before it: where the server
honours that and the bit agrees, the rest is appended. Anything else leads to a whole read, and so does time: what
was read in parts is compared as a whole every `CHECK_S`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from rescalefs.errors import Corrupt, Refused, RescaleError, Unavailable
from rescalefs.spool import PIECE_BYTES, Spool
from rescalefs.timing import Clock, remaining_s

log = logging.getLogger(__name__)

# A tail may have to wait its turn, and then to bring gigabytes; it begins and ends by these whatever comes.
BEGIN_S = 30.0
TRANSFER_S = 600.0
# A file shorter than this is read whole at each look: that is exact, and costs what the parts of it would.
PARTS_FROM_BYTES = 64 * 1024
# What is asked for again with each part, to see that it continues what is known: dozens of lines of a log.
OVERLAP_BYTES = 4 * 1024
# A file rewritten with the same bytes at that very place would not be seen; after so long it is.
CHECK_S = 600.0
_RANGE_NOT_SATISFIABLE = 416


class LiveKey(NamedTuple):
    """Names one live file; `path` is the API's."""

    job_id: str
    run_id: str
    path: str


class TailStream(Protocol):
    """What `Source.tail` returns: bytes as they come, from `start` on."""

    start: int

    def readinto(self, buffer: memoryview) -> int:
        """Place the next bytes and return their number, 0 at the end."""

    def close(self) -> None:
        """End the transfer."""


class Source(Protocol):
    """Where live bytes come from."""

    def tail(
        self, job_id: str, run_id: str, path: str, *, start: int, is_retried: bool, deadline_at: float
    ) -> TailStream:
        """Begin to read a live file from *start*, or from 0 where parts are not to be had."""


class Tailed:
    """What is known of one live file. Written by the one fetch in flight, read by anyone: each field stands alone."""

    def __init__(self, key: LiveKey) -> None:
        self.key = key
        self.spool: Spool | None = None
        self.changed_ns = 0
        self.checked_at = float("-inf")  # when the whole was read last
        self.has_parts = False  # parts were appended since then
        self.whole_until = float("-inf")  # parts were asked for in vain


class Tailer:
    """Reads live files. Threads: any, but one for a file.

    `counts`, approximate because threads may count at once: `looks` at files, those of them that brought `parts`, the
    `bytes` that came, files `replaced`, and of those the ones `refuted`: parts had been appended since the last check.
    """

    def __init__(
        self,
        source: Source,
        spool_directory: Callable[[], Path],
        clock: Clock,
        wall_clock_ns: Callable[[], int],
        first_s: float = BEGIN_S,
    ) -> None:
        self._first_s = first_s
        self._source = source
        self._spool_directory = spool_directory
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self.counts = Counter(dict.fromkeys(("looks", "parts", "bytes", "replaced", "refuted"), 0))

    def update(self, tailed: Tailed) -> None:
        """Look at the file now. What came before an error is kept, as long as it only adds to what is known.

        Raises:
            RescaleError: it cannot be read, or not to its end.
        """
        self.counts["looks"] += 1
        try:
            if not self._continue(tailed):
                self._read(tailed, 0)
        except OSError as error:  # of the spool: what the transfer raises has become a RescaleError
            raise Unavailable(f"no room for live file {tailed.key.path}: {error.strerror}") from None

    def _continue(self, tailed: Tailed) -> bool:
        """Read what follows what is known; False where only a whole read can tell."""
        spool, now = tailed.spool, self._clock()
        if spool is None or spool.size < PARTS_FROM_BYTES or not spool.is_text:
            return False
        if now - tailed.checked_at >= CHECK_S or now < tailed.whole_until:
            return False
        try:
            return self._read(tailed, spool.size - OVERLAP_BYTES)
        except (Refused, Corrupt) as error:
            if not isinstance(error, Refused) or error.status != _RANGE_NOT_SATISFIABLE:  # that means that it shrank
                log.info("live file %s: no parts: %s", tailed.key.path, error)
                tailed.whole_until = now + CHECK_S
            return False
        except RescaleError:
            tailed.whole_until = now + CHECK_S  # some servers fail at what they do not know
            raise

    def _read(self, tailed: Tailed, start: int) -> bool:
        """Read from *start* on; False if that is a part that does not continue what is known."""
        now = self._clock()
        is_first = tailed.spool is None  # somebody waits for it; of a file that is known the next look is another try
        begin_s = self._first_s if is_first else BEGIN_S
        stream = self._source.tail(*tailed.key, start=start, is_retried=is_first, deadline_at=now + begin_s)
        try:
            return self._merge(tailed, stream, now + TRANSFER_S)
        finally:
            stream.close()

    def _merge(self, tailed: Tailed, stream: TailStream, deadline_at: float) -> bool:
        spool = tailed.spool
        if spool is None:
            spool = Spool(self._spool_directory())
        buffer = memoryview(bytearray(PIECE_BYTES))
        offset, is_part = stream.start, stream.start > 0
        while count := stream.readinto(buffer):
            self.counts["bytes"] += count
            remaining_s(deadline_at, f"live file {tailed.key.path}", self._clock)
            data = buffer[:count]
            if offset < spool.size:
                same = spool.starts_like(offset, data)
                if offset + same < min(spool.size, offset + count):
                    if is_part:
                        return False
                    spool = self._replaced(tailed, spool, offset + same)
                offset += same
                data = data[same:]
            if data:
                tailed.has_parts |= is_part
                spool.append(data)
                if spool is tailed.spool:  # seen at once, whatever becomes of the rest
                    tailed.changed_ns = self._wall_clock_ns()
            offset += len(data)
        if offset < spool.size:
            if is_part:
                return False
            spool = self._replaced(tailed, spool, offset)
        if is_part:
            self.counts["parts"] += 1
            return True
        if spool is not tailed.spool:
            tailed.changed_ns = self._wall_clock_ns()
            tailed.spool = spool
        tailed.checked_at = self._clock()
        tailed.has_parts = False
        return True

    def _replaced(self, tailed: Tailed, old: Spool, same: int) -> Spool:
        """Begin a new generation that shares the first *same* bytes with the old one."""
        self.count_replaced(tailed)
        return old.branch(self._spool_directory(), same)

    def count_replaced(self, tailed: Tailed) -> None:
        """Note that what was known is not how the file begins any more."""
        log.info("live file %s was truncated or replaced; starting over", tailed.key.path)
        self.counts["replaced"] += 1
        self.counts["refuted"] += tailed.has_parts
