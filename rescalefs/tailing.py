"""Brings the spool of a live file up to date: in parts where that can be done, whole where it must.

Of a text that has grown long only what follows is asked for, with a bit of what is known before it: as a range where
the server honours that, else as its last lines, which continue what is known if `joining` says so. Anything else leads
to a whole read, and so does time: what was read in parts is compared as a whole every `CHECK_S`.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from rescalefs.errors import Corrupt, Refused, RescaleError, Unavailable
from rescalefs.joining import (
    MAX_ANSWER_BYTES,
    MAX_OVERLAP_BYTES,
    NoJoin,
    is_too_much,
    join,
    lines_to_ask,
    lines_to_try,
    overlap_of,
)
from rescalefs.models import LastLines
from rescalefs.spool import PIECE_BYTES, Spool
from rescalefs.timing import Clock, remaining_s

log = logging.getLogger(__name__)

# A tail may have to wait its turn, and then to bring gigabytes; it begins and ends by these whatever comes.
BEGIN_S = 30.0
TRANSFER_S = 600.0
# A file shorter than this is read whole at each look: that is exact, and costs what the parts of it would.
PARTS_FROM_BYTES = 64 * 1024
# What is asked for again with each range, to see that it continues what is known: dozens of lines of a log.
OVERLAP_BYTES = 4 * 1024
# A file rewritten with the same bytes at that very place would not be seen; after so long it is.
CHECK_S = 600.0
# A way of asking that fails is left for so long, then twice as long, up to `CHECK_S`: longer than to the next look, so
# that it reads the whole, because whether the failure was about the way cannot be known.
DOUBT_S = 10.0
# Lines asked for did not reach back to what is known: so often twice as many are, before the file is read whole.
MAX_DOUBLINGS = 2
# A line that no other follows may not be whole: whether it ends there, a whole read tells after so long.
HELD_S = 30.0
# Joins that proved to be wrong are not tried again for so long: the next one might be, too.
REFUTED_S = 3600.0
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

    def last_lines(
        self, job_id: str, run_id: str, path: str, lines: int, *, max_bytes: int, deadline_at: float
    ) -> LastLines:
        """Return the last lines of a live file, or fail if they are more than *max_bytes*."""


class Way:
    """Whether one way of asking for parts of a file is worth a try: not for some time after it failed."""

    def __init__(self) -> None:
        self._not_before = float("-inf")
        self._doubts = 0

    def is_worth_trying(self, now: float) -> bool:
        """Tell whether to ask so."""
        return now >= self._not_before

    def worked(self) -> None:
        """Forget failures."""
        self._doubts = 0

    def failed(self, now: float) -> None:
        """Note that an answer failed, which may have nothing to do with the way of asking."""
        self.leave(now, min(CHECK_S, DOUBT_S * 2.0**self._doubts))
        self._doubts += 1

    def leave(self, now: float, seconds: float) -> None:
        """Do not ask so for a while."""
        self._not_before = now + seconds


class Tailed:
    """What is known of one live file. Written by the one fetch in flight, read by anyone: each field stands alone."""

    def __init__(self, key: LiveKey) -> None:
        self.key = key
        self.spool: Spool | None = None
        self.changed_ns = 0
        self.checked_at = float("-inf")  # when the whole was read last
        self.has_parts = False  # parts were appended since then
        self.has_joins = False  # of them some by a join
        self.ranges = Way()
        self.joins = Way()
        self.looked_at = 0.0
        self.lines_per_s = 0.0  # how fast it grew of late
        self.held_since = float("inf")  # whether the last line ends there is not known since then
        self.is_tried = False  # the server was seen to tell lines of it as they are
        self.untold = 0  # by so many lines it should have grown for the last lines of this look not to continue it


class Tailer:
    """Reads live files. Threads: any, but one for a file.

    `counts`, approximate because threads may count at once: `looks` at files, those of them that brought `parts` as
    ranges and those that were `joins` of last lines, the `bytes` that came, files `replaced`, and of those the ones
    `refuted`: parts had been appended since the last check.
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
        self._has_ranges = True  # what the server did with the last range asked for; to begin with, hope
        self.counts = Counter(dict.fromkeys(("looks", "parts", "joins", "bytes", "replaced", "refuted"), 0))

    def update(self, tailed: Tailed) -> None:
        """Look at the file now. What came before an error is kept, as long as it only adds to what is known.

        Raises:
            RescaleError: it cannot be read, or not to its end.
        """
        self.counts["looks"] += 1
        now, before = self._clock(), tailed.spool
        lines = 0 if before is None else before.lines
        tailed.untold = 0
        try:
            if not self._continue(tailed, now):
                self._read(tailed, 0)
        except OSError as error:  # of the spool: what the transfer raises has become a RescaleError
            raise Unavailable(f"no room for live file {tailed.key.path}: {error.strerror}") from None
        if before is not None and before is tailed.spool:
            grown_lines = before.lines - lines
            if now > tailed.looked_at:
                tailed.lines_per_s = max(tailed.lines_per_s / 2, grown_lines / (now - tailed.looked_at))
            if grown_lines < tailed.untold:  # lines are told otherwise than they are
                tailed.joins.failed(now)
        tailed.looked_at = now

    def _continue(self, tailed: Tailed, now: float) -> bool:
        """Look without reading all of the file; False where only a whole read can tell."""
        spool = tailed.spool
        if spool is None or spool.is_lost or spool.size < PARTS_FROM_BYTES or not spool.is_text:
            return False
        is_due = now - tailed.checked_at >= CHECK_S or now - tailed.held_since >= HELD_S
        may_ask_range = tailed.ranges.is_worth_trying(now)
        if not is_due and not (self._has_ranges and may_ask_range):
            overlap = self._overlap(tailed, spool, now)
            if overlap is not None:
                return self._join(tailed, spool, overlap, now)
        # A server that ignores ranges sends the whole, which is wanted now; and one day it may not ignore them.
        if not may_ask_range or (is_due and self._has_ranges):
            return False
        return self._range(tailed, spool, now) and (not is_due or tailed.checked_at >= now)

    # ---- ranges and whole files ----

    def _range(self, tailed: Tailed, spool: Spool, now: float) -> bool:
        """Read what follows what is known, or the whole, as the server likes; False if neither came."""
        try:
            if not self._read(tailed, spool.size - OVERLAP_BYTES):
                return False
        except (Refused, Corrupt) as error:
            if not isinstance(error, Refused) or error.status != _RANGE_NOT_SATISFIABLE:  # that means that it shrank
                log.info("live file %s: no parts: %s", tailed.key.path, error)
                tailed.ranges.leave(now, CHECK_S)
            return False
        except RescaleError:
            tailed.ranges.failed(now)
            raise
        tailed.ranges.worked()
        return True

    def _read(self, tailed: Tailed, start: int) -> bool:
        """Read from *start* on; False if that is a part that does not continue what is known."""
        now = self._clock()
        is_first = tailed.spool is None  # somebody waits for it; of a file that is known the next look is another try
        begin_s = self._first_s if is_first else BEGIN_S
        stream = self._source.tail(*tailed.key, start=start, is_retried=is_first, deadline_at=now + begin_s)
        try:
            if start > 0:
                self._has_ranges = stream.start > 0
            return self._merge(tailed, stream, now + TRANSFER_S)
        finally:
            stream.close()

    def _merge(self, tailed: Tailed, stream: TailStream, deadline_at: float) -> bool:
        spool = tailed.spool
        if spool is None or spool.is_lost:  # as if it were replaced: what was served cannot be compared any more
            spool = Spool(self._spool_directory())
        buffer = memoryview(bytearray(PIECE_BYTES))
        offset, is_part = stream.start, stream.start > 0
        try:
            while count := stream.readinto(buffer):
                self.counts["bytes"] += count
                remaining_s(deadline_at, f"live file {tailed.key.path}", self._clock)
                data = buffer[:count]
                if offset < spool.size:
                    same = spool.starts_like(offset, data)
                    if offset + same < min(spool.size, offset + count):
                        if is_part:
                            return False
                        spool = spool.branch(self._spool_directory(), offset + same)
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
                spool = spool.branch(self._spool_directory(), offset)
            if is_part:
                self.counts["parts"] += 1
                return True
            self._take_whole(tailed, spool)
        finally:
            if spool is not tailed.spool:
                spool.close()
        return True

    def _take_whole(self, tailed: Tailed, spool: Spool) -> None:
        """Take *spool*, which is all of the file, for what is known."""
        if spool is not tailed.spool:
            if tailed.spool is not None and not tailed.spool.is_lost:
                self.count_replaced(tailed)
            tailed.changed_ns = self._wall_clock_ns()
            tailed.spool = spool
            tailed.is_tried = False
        tailed.checked_at = self._clock()
        tailed.has_parts = tailed.has_joins = False
        tailed.held_since = float("inf")

    # ---- last lines ----

    def _overlap(self, tailed: Tailed, spool: Spool, now: float) -> bytes | None:
        """Return the end of what is known, as a join must hold it; None where there can be no join."""
        if not spool.is_plain or not tailed.joins.is_worth_trying(now):
            return None
        overlap = overlap_of(spool.read(max(0, spool.size - MAX_OVERLAP_BYTES), MAX_OVERLAP_BYTES))
        return overlap if overlap is not None and spool.ends_once(len(overlap)) else None

    def _join(self, tailed: Tailed, spool: Spool, overlap: bytes, now: float) -> bool:
        """Append what the last lines tell beyond *overlap*; False if they do not continue what is known."""
        expected_lines = math.ceil(tailed.lines_per_s * (now - tailed.looked_at))
        end = spool.read(max(0, spool.size - MAX_ANSWER_BYTES), MAX_ANSWER_BYTES)
        lines = lines_to_ask(overlap, expected_lines)
        for _ in range(1 + MAX_DOUBLINGS):
            if is_too_much(overlap, lines, spool.size):
                return False
            asked = lines if tailed.is_tried else max(lines, lines_to_try(end[-(spool.size // 2) :]))
            answer = self._last_lines(tailed, asked, now)
            if answer is None:
                return False
            found = join(answer, asked, end, spool.size, overlap)
            if isinstance(found, bytes):
                self._append(tailed, spool, found, now)
                return True
            log.info("live file %s: its last %d lines: %s", tailed.key.path, asked, found.value)
            if found is NoJoin.UNFIT:
                tailed.joins.failed(now)
                return False
            tailed.untold = asked - overlap.count(b"\n")
            if found is NoJoin.ANOTHER:
                return False
            lines *= 2
        return False

    def _last_lines(self, tailed: Tailed, lines: int, now: float) -> LastLines | None:
        """Ask for the last lines; None where they are not to be had, but the file may be."""
        try:
            answer = self._source.last_lines(
                *tailed.key, lines, max_bytes=MAX_ANSWER_BYTES, deadline_at=self._clock() + BEGIN_S
            )
        except (Refused, Corrupt) as error:
            log.info("live file %s: no last lines: %s", tailed.key.path, error)
            tailed.joins.failed(now)
            return None
        except RescaleError:
            tailed.joins.failed(now)
            raise
        self.counts["bytes"] += sum(len(line) + 1 for line in answer.lines)
        return answer

    def _append(self, tailed: Tailed, spool: Spool, new: bytes, now: float) -> None:
        self.counts["joins"] += 1
        tailed.joins.worked()
        tailed.is_tried = True
        if new:
            tailed.has_parts = tailed.has_joins = True
            spool.append(memoryview(new))
            tailed.changed_ns = self._wall_clock_ns()
            tailed.held_since = float("inf") if new.endswith(b"\n") else now

    # ---- another file ----

    def count_replaced(self, tailed: Tailed) -> None:
        """Note that what was known is not how the file begins any more."""
        how = ", or was not what its last lines seemed to tell" if tailed.has_joins else ""
        level = logging.WARNING if tailed.has_joins else logging.INFO
        log.log(level, "live file %s was truncated or replaced%s; starting over", tailed.key.path, how)
        self.counts["replaced"] += 1
        self.counts["refuted"] += tailed.has_parts
        if tailed.has_joins:
            tailed.joins.leave(self._clock(), REFUTED_S)
