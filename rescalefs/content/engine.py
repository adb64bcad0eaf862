"""The bytes of final files: fetched as they are read, verified, kept on disk.

Identity is the strongest checksum and the size, so equal files of different runs are fetched and stored once;
a file without a checksum is known by account, file id and size.

A file of up to 4 MiB is verified before its first byte is served: a wrong one is fetched once more, then it is an
error. A larger one is verified before the last block of it that nobody has read is served: if it is wrong and somebody
has read of it, all who have it open get errors from then on, because they share the kernel's pages; who opens it later
gets it fetched once more. With `is_verified_first` every file is verified before its first byte.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from cachetools import LRUCache

from rescalefs.content.cache import DiskCache
from rescalefs.content.fetching import Fetcher
from rescalefs.content.flight import WHOLE_BYTES, Content, OnItsWay, Wait
from rescalefs.content.handle import ContentHandle
from rescalefs.content.segment import BLOCK_BYTES, DATA_AT, segments_of
from rescalefs.content.source import ContentSource
from rescalefs.content.store import Store
from rescalefs.content.streams import Job, Streams
from rescalefs.content.verify import Check, FirstSums, Unread, Verifier
from rescalefs.content.window import FAST_BYTES, Cursor
from rescalefs.errors import Corrupt, DeadlineExceeded, RescaleError, Unavailable
from rescalefs.models import RemoteFile
from rescalefs.timing import Clock, begin_anew, patience_s

log = logging.getLogger(__name__)

# A content that is wrong is fetched anew once.
_MAX_MISMATCHES = 2
# A file that loses blocks to others while it is verified is looked at, and fetched if it is verified first, so often.
_MAX_PASSES = 4
# Files whose other size is looked at side by side: each waits for its transfer, and must not take the place of one.
_CONFIRM_THREADS = 4
# Files that were fetched ahead and wait for their reader; beyond that, the eldest count as fetched in vain.
_MAX_UNREAD = 10_000


class ContentEngine:
    """Reads final files through the cache. Threads: any; requests run on threads of its own."""

    def __init__(
        self,
        cache: DiskCache,
        source: ContentSource,
        *,
        account: str,
        deadline_s: float = 60.0,
        is_verified_first: bool = False,
        clock: Clock = time.monotonic,
        on_other_size: Callable[[], None] = lambda: None,  # a file proves to have another size than listed
    ) -> None:
        self._cache, self._on_other_size = cache, on_other_size
        self._account, self._deadline_s = account, deadline_s
        self._is_verified_first = is_verified_first
        self._store = Store(cache)
        self._streams, self._confirming = Streams(), Streams(_CONFIRM_THREADS)
        self._verifier = Verifier(self._store)
        self._fetcher = Fetcher(
            source,
            self._store,
            self._streams,
            self._verifier.go_on,
            self._change,
            self._try_other_size,
            deadline_s=deadline_s,
            clock=clock,
        )
        self._judging = threading.Lock()  # taken before all others: a mismatch counts once
        self._lock = threading.Lock()  # guards the five below and the users of contents; nothing else is done under it
        self._contents: dict[str, Content] = {}
        self.other_sizes: dict[str, int] = {}  # of files that were listed with another one, by their id
        self._generations: Counter[str] = Counter()  # how often the kernel's pages of contents had to go
        self._verified: set[str] = set()  # large contents that were when they were closed: pages of them may be left
        self._unread: LRUCache[str, None] = LRUCache(_MAX_UNREAD)  # contents fetched ahead that nobody has opened yet
        self._counts: Counter[str] = Counter()  # approximate: threads may count at once
        self._is_closed = False

    def start(self) -> None:
        """Make the threads and look at what the cache has."""
        self._cache.start()
        self._streams.start()
        self._confirming.start()
        self._verifier.start()

    def close(self) -> None:
        """Let waiting readers fail and end the threads."""
        self._is_closed = True
        self._confirming.close()
        self._streams.close()
        self._verifier.close()
        for content in self.open_contents():
            content.abandon(Unavailable("the mount is closing"))
        self._cache.close()

    def open(self, file: RemoteFile) -> ContentHandle:
        """Open a file; asks nothing.

        Raises:
            Corrupt: it is listed as empty, and its checksum is of some bytes. The kernel would ask for none of them.
        """
        handle = self._open(file)
        if not handle.size and file.digest is not None and not file.digest.matches(b""):
            self._confirming.submit(Job(is_urgent=True), partial(self._fetcher.ask_size, handle.content))
            handle.close()
            raise Corrupt(f"file {file.id} ({file.path}) is listed without a byte, and its checksum is of some")
        identity = handle.content.identity
        with self._lock:
            if identity in self._unread:
                del self._unread[identity]
                self._counts["ahead_read"] += 1
        return handle

    def _open(self, file: RemoteFile) -> ContentHandle:
        file = replace(file, size=self.size(file))
        identity = self.identity(file)
        with self._lock:
            content = self._contents.get(identity)
            if content is None or content.mismatches >= _MAX_MISMATCHES:  # a new try for who comes now
                content = self._contents[identity] = Content(file, identity, self._judge, self._change)
                if identity in self._verified:
                    content.unread.note(0, content.size)  # the kernel may have any of it, and serve it
                    content.served = (0,)
            content.users += 1
            handle = ContentHandle(content, self._generations[identity], self._readinto, self._release)
        return handle

    def prefetch(self, file: RemoteFile) -> bool:
        """Begin to fetch a file ahead of its reader; False if it is large, open, here, on its way, or without room."""
        if file.size > WHOLE_BYTES or not file.is_uploaded:
            return False
        handle = self._open(file)
        identity = handle.content.identity
        with self._lock:  # before it begins: its reader may come at any moment
            is_open = handle.content.users > 1  # who has it open fetches it
            is_known = identity in self._unread
            if not is_open:
                self._unread[identity] = None
        if not is_open and self._fetcher.prefetch(handle.content, handle.close):
            with self._lock:
                self._counts["ahead"] += 1
            return True
        if not is_open and not is_known:
            with self._lock:
                if identity in self._unread:
                    del self._unread[identity]
                else:  # its reader came meanwhile and fetches it, and was counted
                    self._counts["ahead_read"] -= 1
        handle.close()
        return False

    def transfers(self) -> list[OnItsWay]:
        """Return what is on its way now."""
        return [each for content in self.open_contents() for each in content.on_its_way()]

    def _release(self, content: Content) -> None:
        """Forget a handle."""
        with self._lock:
            content.users -= 1
            if not content.users and content.served and content.check is not None:
                if content.check.verdict:
                    self._verified.add(content.identity)
                elif content.done or content.identity not in self._verified:
                    # What was read of it is known no more: nor may it be kept.
                    self._generations[content.identity] += 1
                    self._verified.discard(content.identity)
            if not content.users and self._contents.get(content.identity) is content:
                del self._contents[content.identity]
        if content.fetches:
            self._fetcher.drop_unwanted(content)
        if not content.users:
            self._cache.leave(content.identity, content.size)

    def size(self, file: RemoteFile) -> int:
        """Return the size to show: the listed one, or the one that the server has and the checksum confirmed."""
        return self.other_sizes.get(file.id, file.size)

    def state(self, file: RemoteFile) -> str:
        """Return how much of a file is here: remote, partial, cached or verified."""
        file = replace(file, size=self.size(file))
        identity = self.identity(file)
        if self._store.has_all(identity, 0, file.size):
            is_verified = file.digest and file.size and self._cache.is_verified(identity, file.size)
            return "verified" if is_verified else "cached"
        return "partial" if self._store.has_any(identity, file.size) else "remote"

    def stats(self) -> Mapping[str, int]:
        """Return counters for `.rescale/stats`."""
        return {
            "content.hits": self._counts["hits"],
            "content.misses": self._counts["misses"],
            "content.files_ahead": self._counts["ahead"],
            "content.files_ahead_read": self._counts["ahead_read"],
            "content.fetched_bytes": self._fetcher.fetched_bytes,
        }

    def open_contents(self) -> list[Content]:
        """Return what is open; its text says what is on its way."""
        with self._lock:
            return list(self._contents.values())

    def identity(self, file: RemoteFile) -> str:
        """Return what names the content of a file, as a file name."""
        known_by = f"{file.digest.algorithm}:{file.digest.value.hex()}" if file.digest else f"{self._account}:{file.id}"
        return hashlib.blake2b(f"{known_by}:{file.size}".encode(errors="surrogatepass"), digest_size=20).hexdigest()

    # ---- reading ----

    def _readinto(self, handle: ContentHandle, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of a content from *offset* on: from the store, or once they have come."""
        content = handle.content
        mismatches = content.mismatches
        if any(handle.first <= served < mismatches for served in content.served):
            raise Corrupt(f"file {content.file.id} ({content.file.path}) was read with bytes that proved to be wrong")
        if mismatches >= _MAX_MISMATCHES:
            raise Corrupt(f"file {content.file.id} ({content.file.path}) does not match its checksum, twice")
        if self._must_be_verified(content):
            self._verify_first(content)
            if content.mismatches != mismatches:
                return self._readinto(handle, offset, buffer)
        end = offset + len(buffer)
        cursor = content.pattern.note(offset, end)
        is_miss = not self._store.readinto(content.identity, offset, buffer, content.size)
        self._counts["misses" if is_miss else "hits"] += 1
        if is_miss:
            with handle.patience.waiting():
                self._wait_for(content, cursor, offset, buffer)
        else:
            if (until := min(content.size, cursor.disk_until)) > cursor.ready:
                self._store.expect(content.identity, max(cursor.ready, end), until, content.size)
                cursor.ready = until
            if cursor.planned < content.size and cursor.until > cursor.planned:
                self._fetcher.ahead(content, cursor)
        if (check := content.check) is not None and check.verdict is None:
            with content.lock:
                read_to = content.unread.note(offset, end)
            if read_to == content.size:
                self._wait_for_verdict(content)  # it may be the last read that its reader needs
            else:
                self._verifier.go_on(check, 0, read_to)
        if mismatches not in content.served or content.mismatches != mismatches:
            with content.lock:  # served counts from here on: a verdict comes before it or after it
                if is_now := content.mismatches == mismatches:
                    content.served = (*content.served, mismatches)
            if not is_now:
                return self._readinto(handle, offset, buffer)  # an error if it was served before
        if self._must_be_verified(content):
            return self._readinto(handle, offset, buffer)  # some of it has come anew

    def _wait_for(self, content: Content, cursor: Cursor, offset: int, buffer: memoryview) -> None:
        """Wait until the bytes from *offset* on that fill *buffer* are here, and place them there.

        Raises:
            DeadlineExceeded: they have not come in the time that a reader may be kept waiting.
            RescaleError: whatever kept them from coming.
        """
        began = time.monotonic()
        end = offset + len(buffer)
        while True:
            wait = Wait(offset, end)
            with content.lock:
                content.waits.append(wait)
            try:
                if content.fetches:
                    self._fetcher.drop_unwanted(content)
                self._fetcher.cover(content, cursor, offset, end)
                if self._store.readinto(content.identity, offset, buffer, content.size):
                    return
                left_s = patience_s(self._deadline_s - (time.monotonic() - began))
                if self._is_closed:
                    raise Unavailable("the mount is closing")
                if left_s > 0 and not content.is_coming(offset, end) and not wait.happened.is_set():
                    continue  # what seemed to be here has just proved to be damaged
                if left_s == 0 or not wait.happened.wait(left_s):
                    raise DeadlineExceeded(f"file {content.file.id}: no answer in {time.monotonic() - began:.1f} s")
                if wait.error is not None:
                    raise wait.error
            finally:
                with content.lock:
                    content.waits.remove(wait)
            if self._store.readinto(content.identity, offset, buffer, content.size):
                return

    # ---- verifying ----

    def _wait_for_verdict(self, content: Content) -> None:
        """If all blocks not looked at are here, wait until they are known to be right or wrong, or to have gone.

        Raises:
            DeadlineExceeded, Unavailable: there is no verdict.
        """
        for _ in range(_MAX_PASSES):
            check = content.check
            if check is None or check.verdict is not None:
                return
            if not self._store.has_all(content.identity, check.at, content.size):
                return
            self._verifier.go_on(check, 0, content.size)
            is_idle = check.wait(self._deadline_s)
            if self._is_closed:
                raise Unavailable("the mount is closing")
            if not is_idle:
                raise DeadlineExceeded(f"file {content.file.id}: its checksum was not computed in time")
        raise Unavailable(f"file {content.file.id}: its checksum cannot be computed")

    def _verify_first(self, content: Content) -> None:
        """Fetch and check all of a file."""
        cursor = Cursor(0, 0)
        cursor.consumed = FAST_BYTES
        mismatches = content.mismatches
        content.pattern.cursors = [cursor, *content.pattern.cursors]
        for _ in range(_MAX_PASSES):
            cursor.position = cursor.planned = 0
            while (
                run := self._store.missing(content.identity, cursor.position, content.size, content.size)
            ) is not None:
                cursor.position = run[0]
                block = memoryview(bytearray(min(BLOCK_BYTES, content.size - run[0])))
                self._wait_for(content, cursor, run[0], block)
                begin_anew(self._deadline_s)  # it comes
            self._wait_for_verdict(content)
            if not self._must_be_verified(content) or content.mismatches != mismatches:
                return
        raise Unavailable(f"file {content.file.id}: other files push it out of the cache before it is verified")

    def _must_be_verified(self, content: Content) -> bool:
        """Tell whether a content is to be verified before it is served; what can never be here as a whole is not."""
        if not self._is_verified_first or content.check is None or content.check.verdict is not None:
            return False
        return content.size + (segments_of(content.size) + 1) * DATA_AT <= self._store.room_bytes

    def _change(self, content: Content, mismatches: int) -> None:
        """The server has sent other bytes for the same place. Called on a stream's thread."""
        with self._judging:
            if content.mismatches == mismatches:
                log.error("file %s (%s): the server sends different bytes for it", content.file.id, content.file.path)
                self._forget(content)

    def _try_other_size(self, content: Content, size: int) -> None:
        """Find out whether the server's size is right, if a checksum can tell; who has the file open gets an error."""
        # No bytes at all would be taken unseen: nothing is fetched, and so nothing is compared.
        if size and content.file.digest is not None and content.file.id not in self.other_sizes:
            self._confirming.submit(Job(is_urgent=True), partial(self._confirm, replace(content.file, size=size)))

    def _confirm(self, file: RemoteFile) -> None:
        handle = self.open(file)
        try:
            if handle.content.check is not None:
                self._verify_first(handle.content)
            handle.read(0, 1)
            if handle.content.check is None or handle.content.check.verdict:
                log.warning("file %s (%s) has %d bytes, as its checksum confirms", file.id, file.path, file.size)
                with self._lock:
                    self.other_sizes[file.id] = file.size
                self._on_other_size()
        except RescaleError as error:
            log.error("file %s (%s) may have %d bytes: %s", file.id, file.path, file.size, error)
        finally:
            handle.close()

    def _judge(self, content: Content, check: Check, is_right: bool) -> None:
        """Take the verdict on a content. Called on the verifier's thread."""
        file = content.file
        with self._judging:
            if content.check is not check:
                return  # some of it was replaced meanwhile
            if is_right:
                self._cache.mark_verified(content.identity, content.size)
                return
            log.error("file %s (%s) does not match its %s", file.id, file.path, check.digest.algorithm)
            self._forget(content)

    def _forget(self, content: Content) -> None:
        """Drop wrong bytes: first those in the store, so that who sees the new count of mismatches reads new ones."""
        self._store.drop(content.identity, content.size)
        with self._lock:
            self._generations[content.identity] += 1
        with content.lock:
            content.mismatches += 1
            content.ended += 1
            content.first = FirstSums(content.size)
            content.check_anew()
            content.unread = Unread(content.size)
            for fetch in content.fetches:
                fetch.is_unwanted = True
            for cursor in content.pattern.cursors:
                cursor.planned = 0
