"""What one file's bytes are up to in this process: on their way, waited for, being checked. It does nothing itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from rescalefs.budget import Priority, Turn
from rescalefs.content.segment import block_sums
from rescalefs.content.streams import Job
from rescalefs.content.verify import Check, FirstSums, Unread
from rescalefs.content.window import Cursor, Pattern
from rescalefs.errors import RescaleError
from rescalefs.models import RemoteFile

# Files up to this size come in one request and are verified before their first byte is served.
WHOLE_BYTES = 4 << 20


class Wait:
    """A reader that waits for bytes [start, end), or for something of them to happen. Guarded by its content's lock."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.happened = threading.Event()
        self.error: RescaleError | None = None


class Fetch:
    """A range on its way. `position` is up to where it has come; guarded by its content's lock, as is `is_unwanted`."""

    def __init__(
        self, start: int, end: int, cursor: Cursor, *, is_urgent: bool, on_end: Callable[[], None] = lambda: None
    ) -> None:
        self.on_end = on_end
        self.start = start
        self.end = end
        self.position = start
        self.cursor = cursor
        self.is_unwanted = False
        self.cut = ""  # why its last transfer ended; of its own thread
        self.job = Job(is_urgent=is_urgent)
        self.turn = Turn(Priority.READ if is_urgent else Priority.AHEAD)  # of its requests


class OnItsWay(NamedTuple):
    """What is being fetched of a file: bytes [start, end), of which those before `position` have come."""

    file: RemoteFile
    start: int
    end: int
    position: int
    is_urgent: bool


class Content:
    """One content as this process knows it, shared by all who have it open."""

    def __init__(
        self,
        file: RemoteFile,
        identity: str,
        on_verdict: Callable[[Content, Check, bool], None],
        on_change: Callable[[Content, int], None],
    ) -> None:
        self.file = file
        self.identity = identity
        self.size = file.size
        self.is_whole = file.size <= WHOLE_BYTES
        # Guards the fields below and those of waits and fetches; no I/O is done under it, and nobody waits.
        self.lock = threading.Lock()
        self.fetches: list[Fetch] = []
        self.waits: list[Wait] = []
        self.ended = 0  # fetches, so that a look at the store can be told to be outdated
        self.pattern = Pattern()
        self.has_ranges = True  # until the server sends the whole file for a range
        self.mismatches = 0  # how often its bytes proved to be wrong
        self.served: tuple[int, ...] = ()  # the mismatches that there were when somebody was served bytes
        self.done = 0  # deliveries to the store
        self.users = 0
        self.check: Check | None = None  # of a large file that has a checksum
        self.first = FirstSums(file.size)
        self.unread = Unread(file.size)  # as long as there is no verdict
        self._on_verdict, self._on_change = on_verdict, on_change
        self.check_anew()

    def __str__(self) -> str:
        """Say for a log who has it open, and what is on its way."""
        with self.lock:
            waits = " ".join(f"[{wait.start}, {wait.end})" for wait in self.waits)
            fetches = " ".join(f"[{fetch.start}, {fetch.end}) at {fetch.position}" for fetch in self.fetches)
        return (
            f"file {self.file.id} ({self.file.path}): {self.users} open"
            f"{'; waited for: ' if waits else ''}{waits}{'; fetching: ' if fetches else ''}{fetches}"
        )

    def note(self, start: int, sums: bytes) -> bool:
        """Note blocks that have come; False if one is not as it was before. Called with the lock held."""
        is_same, new_at = self.first.note(start, sums)
        if self.check is not None and new_at is not None and self.check.verdict is not None:
            self.check_anew()  # it was here from before, and nobody knows as what
        return is_same

    def _looked_at(self, check: Check, start: int, data: memoryview) -> bool:
        """Note blocks that go into a checksum; False if another process has brought others than came here."""
        sums = block_sums(data)
        with self.lock:
            mismatches = self.mismatches
            is_same = self.check is not check or self.first.note(start, sums)[0]
        if not is_same:
            self._on_change(self, mismatches)
        return is_same

    def _trusted(self, check: Check) -> bool:
        """Take the mark on disk for the verdict; False if a block has come, of which it may say nothing.

        A block that comes later finds the verdict, and begins a new check.
        """
        with self.lock:
            if self.first.is_empty:
                check.verdict = True
            return self.first.is_empty

    def is_coming(self, start: int, end: int) -> bool:
        """Tell whether something of the bytes in [start, end) is on its way."""
        with self.lock:
            return any(each.start < end and start < each.end and not each.is_unwanted for each in self.fetches)

    def check_anew(self) -> None:
        """Begin a new checksum: bytes that went into the present one are replaced. Called with the lock held."""
        if self.check is not None and self.check.verdict is not None:
            self.unread.note(0, self.size)  # nobody has noted what was read since the verdict
        if self.file.digest is not None and not self.is_whole:
            verdict = partial(self._on_verdict, self)
            self.check = Check(self.identity, self.size, self.file.digest, verdict, self._looked_at, self._trusted)

    def on_its_way(self) -> list[OnItsWay]:
        """Return what is being fetched, or waits for that."""
        with self.lock:
            return [
                OnItsWay(self.file, fetch.start, fetch.end, fetch.position, fetch.turn.priority is Priority.READ)
                for fetch in self.fetches
            ]

    def abandon(self, error: RescaleError) -> None:
        """Let everybody who waits fail, and fetches end."""
        with self.lock:
            for fetch in self.fetches:
                fetch.is_unwanted = True
            self.wake(0, self.size, error)
        if self.check is not None:
            self.check.idle.set()

    def wake(self, start: int, end: int, error: RescaleError | None = None) -> None:
        """Let those look again who wait for bytes in [start, end). Called with the lock held."""
        for wait in self.waits:
            if wait.start < end and start < wait.end:
                wait.error = wait.error or error  # bytes of another fetch that came are no comfort
                wait.happened.set()
