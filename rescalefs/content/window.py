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
# No request is longer: what is fetched in vain when a reader leaves stays small, and pieces even out.
MAX_PIECE_BYTES = 16 * MIB
# Positions that one open file is followed at; interleaved readers each stay sequential.
MAX_CURSORS = 4
# The kernel's read-ahead sends reads side by side, and they arrive in any order; within this they are one sequence.
_SLACK_BYTES = 512 * KIB


class Cursor:
    """One place at which a file is read on. Offsets and sizes are bytes."""

    __slots__ = ("consumed", "planned", "position", "reads", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.position = end
        self.consumed = end - start
        self.reads = 1
        self.planned = 0  # up to here everything is here or on its way

    def accepts(self, offset: int) -> bool:
        """Tell whether a read at *offset* goes on here."""
        return self.position - _SLACK_BYTES <= offset <= self.position + _SLACK_BYTES and offset >= self.start

    def advance(self, offset: int, end: int) -> None:
        """Note a read of [offset, end)."""
        self.reads += 1
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
    def piece_bytes(self) -> int:
        """The least that is worth a request of its own now."""
        return FAST_PIECE_BYTES if self.consumed >= FAST_BYTES else STEADY_PIECE_BYTES


class Pattern:
    """The cursors of one open file, the one used last in front."""

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


def pieces(start: int, until: int, cursor: Cursor, streams: int, free: int, *, must_all: bool) -> list[tuple[int, int]]:
    """Cut [start, until), which nobody fetches yet, into ranges for at most *free* requests.

    The ranges are such that *streams* requests side by side would end together. What is too little for a request of
    its own is left for later, unless *must_all*, or at the beginning of a sequence.
    """
    left = until - start
    least = cursor.piece_bytes
    size = min(MAX_PIECE_BYTES, max(least, -(-left // streams // MIB) * MIB))
    found: list[tuple[int, int]] = []
    while start < until and len(found) < free:
        if until - start < least and not must_all and cursor.consumed >= STEADY_BYTES:
            break
        found.append((start, min(until, start + size)))
        start = found[-1][1]
    return found
