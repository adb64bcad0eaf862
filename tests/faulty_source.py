"""Files from memory, through a server that cuts, ignores ranges, sends wrong bytes or keeps one waiting."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable

from rescalefs.budget import Turn
from rescalefs.errors import Unavailable
from rescalefs.models import Digest, RemoteFile

LONG_S = 30.0


class FaultySource:
    """Serves *files*; each transfer may be cut (`cuts`) or have a wrong byte (`wrongs`), by chance of a seed."""

    def __init__(self, files: dict[str, bytes], *, cuts: float = 0, wrongs: float = 0, seed: int = 0) -> None:
        self.files = files
        self.cuts = cuts
        self.wrongs = wrongs
        self.has_ranges = True
        self.asked: list[tuple[str, int, int]] = []
        self.taken_bytes = 0
        self.under_way = 0
        self.held: Callable[[str, int], bool] = lambda file_id, at: False  # is the byte at this place kept back?
        self.changed = threading.Condition()  # guards all the above
        self._random = random.Random(seed)

    def contents(self, file_id: str, start: int, end: int | None, *, turn: Turn, deadline_at: float) -> FaultyStream:
        data = self.files[file_id]
        assert end is not None
        assert 0 <= start < end <= len(data)
        with self.changed:
            self.asked.append((file_id, start, end))
            self.under_way += 1
            if not self.has_ranges:
                start, end = 0, len(data)
            cut_at = wrong_at = None
            if self._random.random() < self.cuts:
                cut_at = self._random.randint(start, end)
            if self._random.random() < self.wrongs:
                wrong_at = self._random.randrange(start, end)
            self.changed.notify_all()
        return FaultyStream(self, file_id, start, end, cut_at, wrong_at)

    def let_go(self) -> None:
        """Keep nothing back any more."""
        with self.changed:
            self.held = lambda file_id, at: False
            self.changed.notify_all()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, LONG_S)


class FaultyStream:
    """One transfer."""

    def __init__(
        self, source: FaultySource, file_id: str, start: int, end: int, cut_at: int | None, wrong_at: int | None
    ) -> None:
        self.start = start
        self.total: int | None = len(source.files[file_id])
        self._source = source
        self._file_id = file_id
        self._at = start
        self._end = end
        self._cut_at = cut_at
        self._wrong_at = wrong_at
        self._data = source.files[file_id]

    def readinto(self, buffer: memoryview) -> int:
        source = self._source
        with source.changed:
            assert source.changed.wait_for(lambda: not source.held(self._file_id, self._at), LONG_S)
        if self._cut_at is not None and self._at >= self._cut_at:
            raise Unavailable("cut")
        end = min(self._end, self._at + min(len(buffer), 200_000), self._cut_at or self._end)
        count = end - self._at
        buffer[:count] = self._data[self._at : end]
        if self._wrong_at is not None and self._at <= self._wrong_at < end:
            buffer[self._wrong_at - self._at] ^= 0xFF
        self._at = end
        with source.changed:
            source.taken_bytes += count
            source.changed.notify_all()
        return count

    def close(self) -> None:
        with self._source.changed:
            self._source.under_way -= 1
            self._source.changed.notify_all()


def remote(file_id: str, data: bytes, *, has_digest: bool = True) -> RemoteFile:
    """A final file as the platform lists it."""
    digest = Digest("sha512", hashlib.sha512(data).digest()) if has_digest else None
    return RemoteFile(file_id, file_id, len(data), 0, 5, True, False, digest)
