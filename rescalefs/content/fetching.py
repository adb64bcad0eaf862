"""Bringing the bytes of one file: what is on its way, who waits for what, and the transfers themselves.

A reader that misses registers a `Wait` and sees to it that a `Fetch` covers it; a fetch streams one range, puts each
block into the store as it completes, and wakes those whose bytes have come. Two readers of the same bytes find the same
fetch. Nobody talks to the network under a lock, or on a thread of the kernel's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from rescalefs.content.flight import Content, Fetch
from rescalefs.content.segment import BLOCK_BYTES, block_sums
from rescalefs.content.source import ContentSource, ContentStream
from rescalefs.content.store import Store
from rescalefs.content.streams import Streams
from rescalefs.content.verify import Check
from rescalefs.content.window import MIB, STEADY_BYTES, Cursor, Pace, pieces
from rescalefs.errors import Corrupt, NotFound, RescaleError, Stale, Unavailable
from rescalefs.timing import Clock

log = logging.getLogger(__name__)

# Transfers in a row that may end without a new byte before the range is given up.
ATTEMPTS = 4
# A file fetched ahead takes at most this part of the room: there are up to 48, which must be here for their readers.
_AHEAD_SHARE = 64
# A transfer's buffer: what has come is passed on at each block, at high rates several at once.
_BUFFER_BYTES = 8 * BLOCK_BYTES


class Fetcher:
    """Plans and runs fetches. Threads: any."""

    def __init__(
        self,
        source: ContentSource,
        store: Store,
        streams: Streams,
        go_on: Callable[[Check, int, int], None],
        on_change: Callable[[Content, int], None],
        on_other_size: Callable[[Content, int], None],
        *,
        deadline_s: float,
        clock: Clock = time.monotonic,
    ) -> None:
        self._source = source
        self._store = store
        self._streams = streams
        self._go_on = go_on
        self._on_change = on_change
        self._on_other_size = on_other_size
        self._deadline_s = deadline_s
        self._clock = clock
        self._pace = Pace()
        self._lock = threading.Lock()  # guards fetched_bytes
        self.fetched_bytes = 0

    # ---- planning ----

    def cover(self, content: Content, cursor: Cursor, start: int, end: int) -> None:
        """See to it that all of [start, end) is here or on its way, with what the cursor wants after it.

        Raises:
            Unavailable: the mount is closing.
        """
        self._plan(content, cursor, start, max(end, self._target(content, cursor)), urgent_end=end)

    def ahead(self, content: Content, cursor: Cursor) -> None:
        """Fetch what the cursor wants ahead of its reader."""
        target = self._target(content, cursor)
        start = max(cursor.planned, cursor.position)
        is_little = target < content.size and target - start < self._pace.least_bytes(cursor)
        if start < target and not is_little and len(content.fetches) < self._pace.streams:
            with contextlib.suppress(Unavailable):
                self._plan(content, cursor, start, target, urgent_end=0)

    def _target(self, content: Content, cursor: Cursor) -> int:
        # What is fetched ahead must still be here when its reader comes.
        return min(content.size, cursor.until, cursor.position + self._store.room_bytes // 4)

    def prefetch(self, content: Content, on_end: Callable[[], None]) -> bool:
        """Begin to fetch a whole small file; False if it is here, on its way, or would be gone before it is read.

        *on_end* is called when it has come, or not, but not after False.
        """
        if content.size > self._store.room_bytes // _AHEAD_SHARE:
            return False
        ended = content.ended
        if content.fetches or self._store.missing(content.identity, 0, content.size, content.size) is None:
            return False
        cursor = Cursor(0, content.size)
        with content.lock:
            if content.fetches or content.ended != ended:
                return False  # its reader came meanwhile
            fetch = Fetch(0, content.size, cursor, is_urgent=False, on_end=on_end)
            content.fetches.append(fetch)
            content.pattern.cursors = [*content.pattern.cursors, cursor]
        if not self._streams.submit(fetch.job, partial(self._run, content, fetch)):
            self._end(content, fetch)
        return True

    def ask_size(self, content: Content) -> None:
        """Ask for a byte of a file that is listed without any; another size is told as that of any file is."""
        with contextlib.suppress(RescaleError):
            self._begin(content, Fetch(0, 1, Cursor(0, 0), is_urgent=True), 0, 1).close()

    def drop_unwanted(self, content: Content) -> None:
        """Cancel fetches that no cursor and no reader wants any more."""
        with content.lock:
            cursors = set(content.pattern.cursors)
            for fetch in content.fetches:
                is_waited = any(wait.start < fetch.end and fetch.position < wait.end for wait in content.waits)
                if not is_waited and (not content.users or fetch.cursor not in cursors):
                    fetch.is_unwanted = True  # for good: others may be fetching the same since
            unwanted = [fetch for fetch in content.fetches if fetch.is_unwanted]
        for fetch in unwanted:
            if self._streams.withdraw(fetch.job):
                self._end(content, fetch)

    def _plan(self, content: Content, cursor: Cursor, start: int, target: int, *, urgent_end: int) -> None:
        start -= start % BLOCK_BYTES
        target = min(content.size, target + -target % BLOCK_BYTES)
        while start < target:
            ended = content.ended
            run = self._store.missing(content.identity, start, target, content.size)
            new: list[Fetch] = []
            with content.lock:
                if content.ended != ended:
                    continue  # what was looked at may have come meanwhile
                if run is None:
                    start = target
                else:
                    start, new = self._reserve(content, cursor, run, urgent_end)
            for fetch in new:
                if not self._streams.submit(fetch.job, partial(self._run, content, fetch)):
                    self._end(content, fetch)
                    raise Unavailable("the mount is closing")
            if run is not None and start == run[0]:
                break  # all streams of this file are busy
        cursor.planned = max(cursor.planned, start)

    def _reserve(
        self, content: Content, cursor: Cursor, run: tuple[int, int], urgent_end: int
    ) -> tuple[int, list[Fetch]]:
        """Make fetches for the first part of a run of missing bytes; return up to where it is covered, and them."""
        start, end = run
        if not content.users and start >= urgent_end:
            return start, []  # closed meanwhile
        for fetch in content.fetches:
            if fetch.start <= start < fetch.end and not fetch.is_unwanted:
                if start < urgent_end:
                    fetch.turn.hurry()
                    self._streams.hurry(fetch.job)
                return min(fetch.end, content.size), []
            if start < fetch.start:
                end = min(end, fetch.start)
        is_urgent = start < urgent_end
        if content.is_whole or not content.has_ranges:
            ranges = [(0, content.size)]
        else:
            streams = self._pace.streams
            sizes = self._pace.least_bytes(cursor), self._pace.most_bytes(cursor)
            busy = sum(fetch.end - fetch.position > 2 * MIB for fetch in content.fetches)  # the others end soon
            is_small = cursor.consumed < STEADY_BYTES
            ranges = pieces(start, end, sizes, streams - busy, must_all=is_urgent or is_small or end == content.size)
            del ranges[max(streams - len(content.fetches), int(is_urgent)) :]
        new = [Fetch(first, last, cursor, is_urgent=first < urgent_end) for first, last in ranges]
        content.fetches += new
        return (new[-1].end if new else start), new

    # ---- transferring, on the streams' threads ----

    def _run(self, content: Content, fetch: Fetch) -> None:
        try:
            if content.is_whole:
                self._fetch_whole(content, fetch)
            else:
                self._fetch_range(content, fetch)
        except RescaleError as error:
            self._end(content, fetch, error)
        except Exception as error:
            log.exception("file %s: unforeseen", content.file.id)
            self._end(content, fetch, Unavailable(f"file {content.file.id}: {error}"))
        else:
            self._end(content, fetch)
            for cursor in content.pattern.cursors:
                self.ahead(content, cursor)

    def _end(self, content: Content, fetch: Fetch, error: RescaleError | None = None) -> None:
        with content.lock:
            if fetch not in content.fetches:
                return
            content.fetches.remove(fetch)
            content.ended += 1
            content.wake(fetch.position, fetch.end, error)
            content.wake(fetch.start, fetch.position)
        if not content.users:
            self._store.disk.leave(content.identity, content.size)
        fetch.on_end()
        if error is not None:
            log.info("fetching [%d, %d) of file %s failed: %s", fetch.start, fetch.end, content.file.id, error)

    def _fetch_range(self, content: Content, fetch: Fetch) -> None:
        """Bring a range block by block, asking again for the rest when a transfer is cut."""
        buffer = memoryview(bytearray(min(_BUFFER_BYTES, fetch.end - fetch.start)))
        filled = futile = 0  # bytes of an unfinished block in the buffer; transfers in a row that brought nothing new
        reached = fetch.start
        while fetch.position < fetch.end and not fetch.is_unwanted:
            before = fetch.position + filled
            stream = self._begin(content, fetch, before, fetch.end)
            began = self._clock()
            try:
                if stream.start < before:  # the server ignores ranges and sends everything: take it from the beginning
                    reached = reached if fetch.start == 0 else 0
                    if not self._takes_whole(content, fetch):
                        return
                    buffer, filled, before = memoryview(bytearray(_BUFFER_BYTES)), 0, 0
                filled = self._receive(content, fetch, stream, buffer, filled)
            finally:
                stream.close()
                self._pace.note(fetch.position + filled - before, self._clock() - began)
            if fetch.position >= fetch.end or fetch.is_unwanted:
                return
            futile = 0 if fetch.position + filled > reached else futile + 1
            reached = max(reached, fetch.position + filled)
            self._ask_for_the_rest(content, fetch, fetch.position + filled, futile)

    def _takes_whole(self, content: Content, fetch: Fetch) -> bool:
        """Let *fetch* be the one that brings the whole file; False if another one does."""
        if content.has_ranges:
            log.info("file %s: all of it comes, not the range that was asked for", content.file.id)
        with content.lock:
            content.has_ranges = False
            if any(other.start == 0 and other.end == content.size for other in content.fetches if other is not fetch):
                return False
            fetch.start = fetch.position = 0
            fetch.end = content.size
        return True

    def _receive(self, content: Content, fetch: Fetch, stream: ContentStream, buffer: memoryview, filled: int) -> int:
        """Take what a transfer brings until its end or the fetch's, passing on each block as it completes.

        *filled* bytes of a block are in the buffer already; return how many are at the end.
        """
        while fetch.position < fetch.end and not fetch.is_unwanted:
            room = min(len(buffer), fetch.end - fetch.position)
            if (count := self._more(fetch, stream, buffer[filled:room])) == 0:
                break
            filled += count
            if fetch.position + filled == content.size and not _has_end(content, stream):
                return 0
            done = filled if fetch.position + filled == fetch.end else filled - filled % BLOCK_BYTES
            if done:
                try:
                    self._deliver(content, fetch, buffer[:done])
                except Unavailable as error:  # not as it came before: not taken, and asked for again
                    fetch.cut = str(error)
                    return 0
                buffer[: filled - done] = buffer[done:filled]
                filled -= done
        return filled

    def _fetch_whole(self, content: Content, fetch: Fetch) -> None:
        """Bring a small file in one request and verify it before anybody sees it; once more if it is wrong."""
        digest = content.file.digest
        for attempt in (1, 2):
            data = self._whole(content, fetch)
            if fetch.is_unwanted:
                return
            if digest is None or digest.matches(data):
                break
            level = logging.ERROR if attempt == 2 else logging.WARNING
            log.log(level, "%s does not match its %s", _name(content), digest.algorithm)
        else:
            raise Corrupt(f"{_name(content)} does not match its checksum, twice")
        self._deliver(content, fetch, data, is_verified=digest is not None)

    def _whole(self, content: Content, fetch: Fetch) -> memoryview:
        data = memoryview(bytearray(content.size))
        have = futile = 0
        while have < content.size and not fetch.is_unwanted:
            before = have
            stream = self._begin(content, fetch, have, content.size)
            try:
                have = min(have, stream.start)
                while have < content.size and (count := self._more(fetch, stream, data[have:])):
                    have += count
                if have == content.size and not _has_end(content, stream):
                    have = 0
            finally:
                stream.close()
            futile = 0 if have > before else futile + 1
            if have < content.size and not fetch.is_unwanted:
                self._ask_for_the_rest(content, fetch, have, futile)
        return data

    @staticmethod
    def _more(fetch: Fetch, stream: ContentStream, buffer: memoryview) -> int:
        """Place the next bytes in *buffer*; return 0 at the end of the body, and where it is cut: what came is good."""
        fetch.cut = "its body ended"
        try:
            return stream.readinto(buffer)
        except Unavailable as error:
            fetch.cut = str(error)
            return 0

    @staticmethod
    def _ask_for_the_rest(content: Content, fetch: Fetch, at: int, futile: int) -> None:
        """Say why bytes from *at* on are asked for anew.

        Raises:
            Unavailable: so many transfers in a row brought nothing new.
        """
        if futile >= ATTEMPTS:
            raise Unavailable(f"{_name(content)}: the transfer was cut {ATTEMPTS} times: {fetch.cut}")
        log.info("file %s: asking for the rest from byte %d: %s", content.file.id, at, fetch.cut)

    def _begin(self, content: Content, fetch: Fetch, start: int, end: int) -> ContentStream:
        """Ask for bytes [start, end), in the turn of *fetch*.

        Raises:
            Stale: the file is gone.
            Corrupt: it has another size than listed.
        """
        try:
            deadline_at = self._clock() + self._deadline_s
            stream = self._source.contents(content.file.id, start, end, turn=fetch.turn, deadline_at=deadline_at)
        except NotFound as error:
            raise Stale(f"{_name(content)} is gone: {error}") from None
        if stream.total is not None and stream.total != content.size:
            stream.close()
            self._on_other_size(content, stream.total)
            raise Corrupt(f"{_name(content)} has {stream.total} bytes, {content.size} were listed")
        return stream

    def _deliver(self, content: Content, fetch: Fetch, data: memoryview, *, is_verified: bool = False) -> None:
        """Put whole blocks into the store and wake those whose bytes have come."""
        start, end = fetch.position, fetch.position + len(data)
        if content.check is not None:
            sums = block_sums(data)
            with content.lock:
                mismatches = content.mismatches
                is_same = fetch.is_unwanted or content.note(start, sums)
            if not is_same and content.check.verdict:  # what came before is known to be right: this is not taken
                raise Unavailable(f"{_name(content)}: the server sends other bytes than before")
            if not is_same:
                self._on_change(content, mismatches)
            if fetch.is_unwanted:
                return
        self._store.write(content.identity, start, data, content.size)
        if is_verified:
            self._store.disk.mark_verified(content.identity, content.size)
        with self._lock:
            self.fetched_bytes += len(data)
        with content.lock:
            content.done += 1
            check = content.check
            fetch.position = end
            for wait in content.waits:
                if wait.start < end and start < wait.end and end >= min(wait.end, fetch.end):
                    wait.happened.set()
        if check is not None:
            self._go_on(check, start, end)


def _has_end(content: Content, stream: ContentStream) -> bool:
    """Tell whether a body ends after the last byte listed, if nothing else does; Corrupt if it goes on."""
    if stream.total is not None or content.file.digest is not None:
        return True
    try:
        is_longer = stream.readinto(memoryview(bytearray(1))) > 0
    except Unavailable:
        return False
    if is_longer:
        raise Corrupt(f"{_name(content)} has more bytes than the {content.size} that were listed")
    return True


def _name(content: Content) -> str:
    return f"file {content.file.id} ({content.file.path})"
