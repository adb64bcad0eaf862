"""Whole-file checksums, computed behind the readers' backs while the bytes come in.

The API gives no checksum of a part, so what its server sent wrongly shows only on the whole. One thread follows each
content from its first byte on, as far as its blocks are here, and gives a verdict when it has reached the end.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable

from rescalefs.content.store import Store
from rescalefs.models import Digest

log = logging.getLogger(__name__)

# Bytes taken from the store at a time: enough for hashlib to let other threads run meanwhile.
_PIECE_BYTES = 1 << 20


class Check:
    """The checking of one content. Its fields belong to the verifier's thread, but for `is_idle` and `verdict`.

    `verdict` is None as long as nothing is known, then whether the content matches its checksum.
    """

    def __init__(self, identity: str, size: int, digest: Digest, on_verdict: Callable[[Check, bool], None]) -> None:
        self.identity = identity
        self.size = size
        self.digest = digest
        self._on_verdict = on_verdict
        self.verdict: bool | None = None
        self.idle = threading.Event()  # set while no block that is here waits to be looked at
        self.idle.set()
        self.at = 0  # bytes looked at
        self.sums = hashlib.new(digest.algorithm)
        self.is_queued = False

    def conclude(self) -> None:
        """Compare the sums with the checksum and tell who asked for it."""
        is_right = self.sums.digest() == self.digest.value
        self._on_verdict(self, is_right)  # first, so that who sees the verdict sees what follows from it
        self.verdict = is_right


class Verifier:
    """Follows contents, all on one thread. Threads: any; `start` is called after daemonising."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._buffer = memoryview(bytearray(_PIECE_BYTES))  # belongs to the thread
        self._lock = threading.Lock()  # guards is_queued and idle of all checks; nothing is hashed under it
        self._queue: queue.SimpleQueue[Check | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Make the thread."""
        threading.Thread(target=self._work, name="verify", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._queue.put(None)

    def go_on(self, check: Check) -> None:
        """Look at what has come since; `check.idle` is set when that is done."""
        with self._lock:
            if check.is_queued or check.verdict is not None:
                return
            check.is_queued = True
            check.idle.clear()
        self._queue.put(check)

    def _work(self) -> None:
        while (check := self._queue.get()) is not None:
            with self._lock:
                check.is_queued = False  # from here on, what comes is another reason to look
            try:
                self._follow(check)
            except Exception:
                log.exception("the checksum of %s cannot be computed", check.identity)
            with self._lock:
                if not check.is_queued:
                    check.idle.set()

    def _follow(self, check: Check) -> None:
        while check.verdict is None:
            if check.at == check.size:
                check.conclude()
                return
            end = min(check.size, check.at + _PIECE_BYTES)
            if not self._take(check, end):  # not all of the piece is here, but perhaps its first blocks
                run = self._store.missing(check.identity, check.at, end, check.size)
                if run is not None and (run[0] <= check.at or not self._take(check, run[0])):
                    return

    def _take(self, check: Check, end: int) -> bool:
        piece = self._buffer[: end - check.at]
        if not self._store.readinto(check.identity, check.at, piece, check.size):
            return False
        check.sums.update(piece)
        check.at = end
        return True
