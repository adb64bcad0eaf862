"""How far ahead of a reader to fetch: little at first, everything that fits once it goes on and on.

Pure arithmetic on offsets; it asks and fetches nothing. One stream of the platform gives 8 to 9 MB/s and ten give
30 (measured through `files/{id}/contents/`), so a reader that goes through a file needs many ranges at once, while one
that looks at a header or jumps about must cost little more than what it asks for.
"""

from __future__ import annotations

KIB, MIB = 1 << 10, 1 << 20

# The first look at a file: its header and what tools read to tell its type.
FIRST_BYTES = 1 * MIB
# Read in order without a break, this is no look at a header any more: the kernel's own read-ahead asks for 256 KiB.
STEADY_BYTES = 384 * KIB
STEADY_WINDOW_BYTES = 8 * MIB
STEADY_PIECE_BYTES = 1 * MIB
# And this is somebody who reads the file.
FAST_BYTES = 2 * MIB
FAST_WINDOW_BYTES = 256 * MIB
FAST_PIECE_BYTES = 4 * MIB
MAX_FAST_PIECE_BYTES = 32 * MIB
# Many streams where each is slow, few where one fills the link: more of them would only take turns.
MAX_FILE_STREAMS = 24
MIN_FILE_STREAMS = 4
ENOUGH_BYTES_PER_S = 500e6
USUAL_STREAM_BYTES_PER_S = 8.5e6  # of the platform, as measured through `files/{id}/contents/`
# What the disk is told to have ready for a reader of cached bytes. The kernel's own read-ahead ends at each segment.
DISK_AHEAD_BYTES = 16 * MIB
# Positions at which one file is followed; interleaved readers each stay sequential.
MAX_CURSORS = 16
# The kernel's read-ahead sends two reads of up to 1 MiB side by side, and they arrive in any order; within this they
# are one sequence.
_SLACK_BYTES = 2 * MIB


class Cursor:
    """One place at which a file is read on. Offsets and sizes are bytes."""

    __slots__ = ("consumed", "planned", "position", "reads", "ready", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.position = end
        self.consumed = end - start
        self.reads = 1
        self.planned = 0  # up to here everything is here or on its way
        self.ready = 0  # up to here the disk was told to have ready what it holds

    def accepts(self, offset: int) -> bool:
        """Tell whether a read at *offset* goes on here."""
        return self.position - _SLACK_BYTES <= offset <= self.position + _SLACK_BYTES and offset >= self.start

    def advance(self, offset: int, end: int) -> None:
        """Note a read of [offset, end)."""
        self.reads += end > self.position  # the same place again is no sequence
        self.consumed += max(0, end - max(offset, self.position))
        self.position = max(self.position, end)

    @property
    def until(self) -> int:
        """The offset up to which bytes should be on their way."""
        if self.consumed >= FAST_BYTES:
            return self.position + FAST_WINDOW_BYTES
        if self.consumed >= STEADY_BYTES:
            return self.position + STEADY_WINDOW_BYTES
        if self.start == 0:
            return max(FIRST_BYTES, self.position)
        return self.position + (self.consumed if self.reads > 1 else 0)

    @property
    def disk_until(self) -> int:
        """The offset up to which the disk should read ahead now; not beyond `ready` while that is enough."""
        is_enough = self.consumed < STEADY_BYTES or self.ready >= self.position + DISK_AHEAD_BYTES // 2
        return self.ready if is_enough else self.position + DISK_AHEAD_BYTES


class Pattern:
    """The cursors of one file, the one used last in front. Threads: any, but a note may get lost between two.

    All who have the file open share it: the kernel keeps one page cache for them, so what one handle is asked for has
    gaps where another one's reads were.
    """

    def __init__(self) -> None:
        self.cursors: list[Cursor] = []

    def note(self, offset: int, end: int) -> Cursor:
        """Note a read of [offset, end), and return the cursor that it belongs to."""
        for cursor in self.cursors:
            if cursor.accepts(offset):
                cursor.advance(offset, end)
                break
        else:
            cursor = Cursor(offset, end)
        self.cursors = [cursor, *(other for other in self.cursors if other is not cursor)][:MAX_CURSORS]
        return cursor


class Pace:
    """How fast a stream is, and so how many of them pay, and how long their requests may be. Threads: any."""

    def __init__(self) -> None:
        self._bytes_per_s = USUAL_STREAM_BYTES_PER_S

    def note(self, count: int, seconds: float) -> None:
        """Note a transfer of *count* bytes."""
        if count >= MIB // 2:  # of less, the connection's start is most
            self._bytes_per_s += (count / max(seconds, 1e-3) - self._bytes_per_s) / 4

    @property
    def streams(self) -> int:
        """Ranges of one file to ask for side by side."""
        return int(min(MAX_FILE_STREAMS, max(MIN_FILE_STREAMS, ENOUGH_BYTES_PER_S / self._bytes_per_s)))

    def least_bytes(self, cursor: Cursor) -> int:
        """The least that is worth a request of its own: half a second of a stream, for a reader of the whole file."""
        if cursor.consumed < FAST_BYTES:
            return STEADY_PIECE_BYTES
        return min(MAX_FAST_PIECE_BYTES, max(FAST_PIECE_BYTES, int(self._bytes_per_s / 2) // MIB * MIB))

    def most_bytes(self, cursor: Cursor) -> int:
        """The most to ask for at once."""
        return 4 * self.least_bytes(cursor)


def pieces(start: int, until: int, sizes: tuple[int, int], streams: int, *, must_all: bool) -> list[tuple[int, int]]:
    """Cut [start, until), which nobody fetches yet, into ranges of *sizes*, (least, most), that *streams* share evenly.

    What is too little for a request of its own is left out, unless *must_all*.
    """
    least, most = sizes
    share = -(-(until - start) // max(1, streams))
    size = min(most, max(least, share + -share % MIB))
    found: list[tuple[int, int]] = []
    while start < until and (must_all or until - start >= least):
        found.append((start, min(until, start + size)))
        start = found[-1][1]
    return found
