"""An open file as the engine gives it out, and what it remembers of its reads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rescalefs.content.flight import Content
from rescalefs.errors import Repeated, RescaleError

# What was waited for in vain is not waited for again for as long, and for this long at most; a moment does not count.
MAX_SILENCE_S = 10.0
MIN_SILENCE_S = 0.5


class _Silence(NamedTuple):
    """Bytes that were waited for in vain: how long others of the file are not waited for, unless some have come."""

    until: float
    deliveries: int
    error: RescaleError


class ContentHandle:
    """An open file. Equal `identity` means equal bytes. Threads: any."""

    def __init__(
        self,
        content: Content,
        generation: int,
        readinto: Callable[[ContentHandle, int, memoryview], None],
        release: Callable[[Content], None],
    ) -> None:
        self._readinto, self._release = readinto, release  # the engine's
        self.content = content
        self.size = content.size
        # After a mismatch the kernel's pages of this content are wrong, too: another name lets them go.
        self.identity = f"{content.identity}.{generation}"
        self.first = content.mismatches  # that there were when it was opened
        self._silence: _Silence | None = None  # replaced as a whole, by any thread

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill *buffer* with the bytes from *offset* on; return how many they are, fewer only at the end of the file.

        Raises:
            Stale: the file is gone.
            Corrupt: what came does not match the file's checksum or size.
            Unavailable, AccessDenied, DeadlineExceeded: the bytes cannot be had.
            Repeated: they are not here, and others of the file were just waited for in vain.
        """
        count = min(len(buffer), self.size - offset)
        if count <= 0:
            return 0
        self._readinto(self, offset, buffer[:count])
        return count

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes [offset, offset + size), fewer only at the end of the file.

        Raises: as `readinto`.
        """
        buffer = bytearray(max(0, min(size, self.size - offset)))
        self.readinto(offset, memoryview(buffer))
        return bytes(buffer)

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """Wait for bytes in this block, but not for some when others were just waited for in vain, and none has come.

        A program that reads on after an error would be kept for a deadline by each of its reads.
        """
        silence, began = self._silence, time.monotonic()
        if silence is not None and began < silence.until and self.content.done == silence.deliveries:
            raise Repeated(silence.error)
        try:
            yield
        except RescaleError as error:
            waited_s = time.monotonic() - began
            if waited_s >= MIN_SILENCE_S:
                self._silence = _Silence(began + waited_s + min(waited_s, MAX_SILENCE_S), self.content.done, error)
            raise

    def close(self) -> None:
        """Let go of the file; what was being fetched for it alone is cancelled."""
        self._release(self.content)
