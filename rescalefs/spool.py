"""What is known of a live file: an unnamed file on disk that is only ever appended to."""

from __future__ import annotations

import logging
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

PIECE_BYTES = 256 * 1024


class Spool:
    """One generation of a live file, in *directory*, or among the system's temporary files where that has no room.

    Threads: one appends, any read. `size` is set after the bytes are there. The file goes with the last reference.
    """

    def __init__(self, directory: Path) -> None:
        self.size = 0
        self.is_text = True  # no NUL so far: as good as surely a log, and not a format that rewrites its head
        try:
            self._file = self._unnamed(directory)
        except OSError as error:
            self._go_elsewhere(error)

    def append(self, data: memoryview) -> None:
        """Add bytes at the end.

        Raises:
            OSError: there is no room anywhere.
        """
        self.is_text = self.is_text and b"\0" not in data.tobytes()
        try:
            self._put(data)
        except OSError as error:
            self._go_elsewhere(error)
            self._put(data)
        self.size += len(data)

    def _put(self, data: memoryview) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._file.fileno(), data[written:], self.size + written)

    def _go_elsewhere(self, error: OSError) -> None:
        """Go on in the system's directory for temporary files, with what is known."""
        log.info("no room for a live file beside the cache (%s); it is kept in %s", error, tempfile.gettempdir())
        file = self._unnamed(None)
        for offset in range(0, self.size, PIECE_BYTES):
            data = self.read(offset, PIECE_BYTES)
            while data:
                count = os.pwrite(file.fileno(), data, offset)
                data, offset = data[count:], offset + count
        self._file = file  # readers may still be at the one before, which stays open

    def _unnamed(self, directory: Path | None) -> Any:
        file: Any = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115  # lives as long as the spool
        weakref.finalize(self, file.close)
        return file

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
