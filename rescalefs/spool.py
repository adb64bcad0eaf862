"""What is known of a live file: an unnamed file on disk that is only ever appended to."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

PIECE_BYTES = 256 * 1024


class Spool:
    """One generation of a live file.

    Threads: one appends, any read. `size` is set after the bytes are there. The file goes with the last reference.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)  # it may have been taken away, like everything that is only a cache
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115  # lives as long as the spool
        weakref.finalize(self, self._file.close)
        self.size = 0
        self.is_text = True  # no NUL so far: as good as surely a log, and not a format that rewrites its head

    def append(self, data: memoryview) -> None:
        """Add bytes at the end."""
        self.is_text = self.is_text and b"\0" not in data.tobytes()
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

    def branch(self, directory: Path, size: int) -> Spool:
        """Return another spool that begins with the first *size* bytes of this one."""
        new = Spool(directory)
        for offset in range(0, size, PIECE_BYTES):
            new.append(memoryview(self.read(offset, min(PIECE_BYTES, size - offset))))
        return new
