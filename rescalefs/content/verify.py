"""Whole-file checksums, computed behind the readers' backs while the bytes come in.

The API gives no checksum of a part, so what its server sent wrongly shows only on the whole. One thread follows each
content from its first byte on, as far as blocks have come or were read, and gives a verdict when it has reached the
end: who looks at the head of what is here from before has nothing else hashed. It takes turns, a piece of each: the end
of a file must not wait for all of a huge one.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from rescalefs.content.segment import BLOCK_BYTES, NO_SUM, SUM_BYTES
from rescalefs.content.store import Store
from rescalefs.models import Digest
from rescalefs.timing import LOOK_S, begin_anew, patience_s

log = logging.getLogger(__name__)

# Bytes taken from the store at a time: enough for hashlib to let other threads run meanwhile.
_PIECE_BYTES = 1 << 20


class Check:
    """The checking of one content. Its fields belong to the verifier's thread, but for `idle` and `verdict`.

    `verdict` is None as long as nothing is known, then whether the content matches its checksum.
    """

    def __init__(
        self,
        identity: str,
        size: int,
        digest: Digest,
        on_verdict: Callable[[Check, bool], None],
        note: Callable[[Check, int, memoryview], bool] = lambda *_: True,
        trust: Callable[[Check], bool] = lambda _: False,
    ) -> None:
        self.identity = identity
        self.size = size
        self.digest = digest
        self._on_verdict = on_verdict
        self._note = note  # which blocks were looked at; False if they are not as they came
        self._trust = trust  # the mark on disk; False if it may tell of others than those that are here
        self.verdict: bool | None = None
        self.idle = threading.Event()  # set while no block that is here waits to be looked at
        self.idle.set()
        self.at = 0  # bytes looked at
        self.until = 0  # and how many are to be, as far as they are here; guarded by the verifier's lock
        self.is_begun = False  # it was looked whether the content is marked as verified
        self.sums = digest.sums()
        self.is_queued = False

    def wait(self, seconds: float) -> bool:
        """Wait until nothing that is here is to be looked at; False if for *seconds* no piece of it was.

        A huge file may take minutes. Its reader waits all the same, unless he is killed: all that he asks for is here.
        """
        at, moved_at, wait_s = self.at, float("-inf"), patience_s(seconds)
        while not self.idle.wait(wait_s):
            if self.at != at:
                at, moved_at = self.at, time.monotonic()
            left_s = moved_at + seconds - time.monotonic()
            if left_s <= 0 or not begin_anew(left_s):
                return False
            wait_s = min(left_s, LOOK_S)
        return True

    def take(self, piece: memoryview) -> bool:
        """Go on with the next bytes; False if they are not those that came first."""
        if not self._note(self, self.at, piece):
            return False
        self.sums.update(piece)
        self.at += len(piece)
        return True

    def trust(self) -> bool:
        """Take the mark on disk for the verdict; False if it is not to be trusted."""
        return self._trust(self)

    def conclude(self) -> None:
        """Compare the sums with the checksum and tell who asked for it."""
        is_right = self.sums.digest() == self.digest.value
        self._on_verdict(self, is_right)  # first, so that who sees the verdict sees what follows from it
        self.verdict = is_right


class FirstSums:
    """Checksums of a content's blocks as they came first, or were looked at first. Guarded by the content's lock.

    Who has read a block that was evicted since has read what the verdict is about only if what comes again is the same.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._sums = bytearray()  # made when the first block comes

    @property
    def is_empty(self) -> bool:
        """Tell whether no block has come or was looked at."""
        return not self._sums

    def note(self, start: int, sums: bytes) -> tuple[bool, int | None]:
        """Note blocks from offset *start* on: tell if all are as they came before, and where the first new one is."""
        if not self._sums:
            self._sums = bytearray(SUM_BYTES * -(-self._size // BLOCK_BYTES))
        new_at = None
        first = start // BLOCK_BYTES * SUM_BYTES
        for at in range(0, len(sums), SUM_BYTES):
            known = self._sums[first + at : first + at + SUM_BYTES]
            if known == NO_SUM:
                new_at = start + at // SUM_BYTES * BLOCK_BYTES if new_at is None else new_at
            elif known != sums[at : at + SUM_BYTES]:
                return False, new_at
        self._sums[first : first + len(sums)] = sums
        return True, new_at


class Unread:
    """Blocks of a content that nobody has read yet. Guarded by the content's lock.

    Whose bytes they are does not matter: what others brought into the cache may be what is missing to a reader.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._blocks = bytearray()  # made with the first read: 1 for each block that nobody has read
        self._first = 0  # of them

    def note(self, start: int, end: int) -> int:
        """Note a read of [start, end); return up to which byte all has been read."""
        if not self._blocks:
            self._blocks = bytearray(b"\1") * -(-self._size // BLOCK_BYTES)
        first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        self._blocks[first:last] = bytes(last - first)
        found = self._blocks.find(1, self._first)
        self._first = found if found >= 0 else len(self._blocks)
        return min(self._size, self._first * BLOCK_BYTES)


class Verifier:
    """Follows contents, all on one thread. Threads: any; `start` is called after daemonising."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._buffer = memoryview(bytearray(_PIECE_BYTES))  # belongs to the thread
        self._lock = threading.Lock()  # guards is_queued and idle of all checks; nothing is hashed under it
        self._queue: queue.SimpleQueue[Check | None] = queue.SimpleQueue()
        self._is_closed = False  # guarded, too: nobody waits for a thread that has ended

    def start(self) -> None:
        """Make the thread."""
        threading.Thread(target=self._work, name="verify", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._is_closed = True
        self._queue.put(None)

    def go_on(self, check: Check, start: int, until: int) -> None:
        """Look at what is here up to byte *until*, unless something before *start* must come first.

        `check.idle` is set when that is done.
        """
        with self._lock:
            check.until = max(check.until, until)
            is_nothing = check.at < start or check.until <= check.at < check.size
            if (check.is_begun and is_nothing) or check.is_queued or check.verdict is not None or self._is_closed:
                return
            check.is_queued = True
            check.idle.clear()
        self._queue.put(check)

    def _work(self) -> None:
        while (check := self._queue.get()) is not None:
            with self._lock:
                check.is_queued = False  # from here on, what comes is another reason to look
            goes_on = False
            try:
                goes_on = self._follow(check)
            except Exception:
                log.exception("the checksum of %s cannot be computed", check.identity)
            if goes_on:
                self.go_on(check, 0, 0)
            with self._lock:
                if not check.is_queued:
                    check.idle.set()

    def _follow(self, check: Check) -> bool:
        """Take the next piece, or give the verdict; False if there is nothing more to be done now."""
        if check.verdict is not None:
            return False
        if check.at == check.size:
            check.conclude()
            return False
        if not check.is_begun:
            check.is_begun = True
            if self._store.disk.is_verified(check.identity, check.size) and check.trust():
                return False
        end = min(check.until, check.at + _PIECE_BYTES)
        if end <= check.at:
            return False
        if not self._take(check, end):  # not all of the piece is here, but perhaps its first blocks
            run = self._store.missing(check.identity, check.at, end, check.size)
            return run is None or (run[0] > check.at and self._take(check, run[0]))
        return True

    def _take(self, check: Check, end: int) -> bool:
        piece = self._buffer[: end - check.at]
        return self._store.readinto(check.identity, check.at, piece, check.size) and check.take(piece)
