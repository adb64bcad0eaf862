"""An open file as the engine gives it out, and what it remembers of its reads."""

from __future__ import annotations

from collections.abc import Callable

from rescalefs.content.flight import Content
from rescalefs.patience import Patience


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
        # After a mismatch the kernel's pages of this content are wrong, too: another name lets them go. And after the
        # last close of what was not checked yet, because nobody is asked for what they hold, and notes who read it.
        self.identity = f"{content.identity}.{generation}"
        self.first = content.mismatches  # that there were when it was opened
        self.patience = Patience(lambda: content.done)  # for bytes that are not here

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

    def close(self) -> None:
        """Let go of the file; what was being fetched for it alone is cancelled."""
        self._release(self.content)
