"""What is known of a live file: an unnamed file on disk that is only ever appended to."""

from __future__ import annotations

import logging
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

from rescalefs.errors import Unavailable
from rescalefs.joining import ODD_BYTES

log = logging.getLogger(__name__)

PIECE_BYTES = 256 * 1024
# What is searched at a time: a quarter of it takes twice as long, four times as much no less.
_SEARCH_BYTES = 1024 * 1024
_MAX_ODD_BYTES = max(map(len, ODD_BYTES))


class Spool:
    """One generation of a live file, in *directory*, or among the system's temporary files where that has no room.

    Threads: one appends, any read. `size` is set after the bytes are there. The file goes with the last reference, or
    with `close`, which whoever drops one unfinished calls: the error that made him do so may refer to it for a while.
    """

    def __init__(self, directory: Path) -> None:
        self.size = 0
        self.is_lost = False
        self.lines = 0  # newlines in it
        self.is_text = True  # no NUL so far: as good as surely a log, and not a format that rewrites its head
        self.is_plain = True  # nor anything else that makes lines of text another thing than what is between newlines
        self._searched = (-1, -1, False)  # at which size `ends_once` was asked for how many bytes, and its answer
        self._end = b""  # as much as the longest but one byte of what makes it no plain text
        self._files: list[Any] = []  # the one in use, and those before it, at which readers may still be
        try:
            self._file = self._unnamed(directory)
        except OSError as error:
            self._go_elsewhere(error)

    def close(self) -> None:
        """Give its room back; nobody may use it any more."""
        for file in self._files:
            file.close()

    def append(self, data: memoryview) -> None:
        """Add bytes at the end.

        Raises:
            OSError: there is no room anywhere.
        """
        try:
            self._put(data)
        except OSError as error:
            self._go_elsewhere(error)
            self._put(data)
        recent = self._end + data.tobytes()
        self.is_text = self.is_text and b"\0" not in recent
        self.is_plain = self.is_plain and not any(odd in recent for odd in ODD_BYTES)
        self.lines += recent.count(b"\n", len(self._end))
        self._end = recent[-_MAX_ODD_BYTES + 1 :]
        self.size += len(data)

    def _put(self, data: memoryview) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._file.fileno(), data[written:], self.size + written)

    def _go_elsewhere(self, error: OSError) -> None:
        """Go on in the system's directory for temporary files, with what is known."""
        log.info("no room for a live file beside the cache (%s); it is kept in %s", error, tempfile.gettempdir())
        file = self._unnamed(None)
        try:
            for offset in range(0, self.size, PIECE_BYTES):
                data = self.read(offset, PIECE_BYTES)
                while data:
                    count = os.pwrite(file.fileno(), data, offset)
                    data, offset = data[count:], offset + count
        except (OSError, Unavailable):
            file.close()
            raise
        self._file = file

    def _unnamed(self, directory: Path | None) -> Any:
        file: Any = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115  # lives as long as the spool
        weakref.finalize(self, file.close)
        self._files.append(file)
        return file

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes [offset, offset + size), fewer at the end.

        Raises:
            Unavailable: the disk does not give them back; the spool is lost from then on.
        """
        try:
            return os.pread(self._file.fileno(), max(0, min(size, self.size - offset)), offset)
        except OSError as error:
            self.is_lost = True
            raise Unavailable(f"what is known of a live file cannot be read from disk: {error.strerror}") from None

    def starts_like(self, offset: int, data: memoryview) -> int:
        """Return how many of the first bytes of *data* equal the spool's from *offset* on."""
        known = self.read(offset, len(data))
        if known == data[: len(known)]:
            return len(known)
        return next(i for i, (ours, theirs) in enumerate(zip(known, data, strict=False)) if ours != theirs)

    def ends_once(self, size: int) -> bool:
        """Tell whether the last *size* bytes stand nowhere else in it. Takes 10 ms for 50 MB that are in memory.

        Asked by the thread that appends; the answer is kept until something is appended.
        """
        if self._searched[:2] != (self.size, size):
            self._searched = (self.size, size, self._first(self.read(self.size - size, size)) == self.size - size)
        return self._searched[2]

    def _first(self, data: bytes) -> int:
        for offset in range(0, self.size, _SEARCH_BYTES):
            at = self.read(offset, _SEARCH_BYTES + len(data) - 1).find(data)
            if at >= 0:
                return offset + at
        return -1

    def branch(self, directory: Path, size: int) -> Spool:
        """Return another spool that begins with the first *size* bytes of this one."""
        new = Spool(directory)
        try:
            for offset in range(0, size, PIECE_BYTES):
                new.append(memoryview(self.read(offset, min(PIECE_BYTES, size - offset))))
        except (OSError, Unavailable):
            new.close()
            raise
        return new
