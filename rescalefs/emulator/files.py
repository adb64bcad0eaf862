"""Output files, and files that a live run is still writing.

Dates are seconds since the epoch, sizes are bytes.
Threads: a `LiveFile` may be used by any thread (it takes the world's lock); a `File` may be changed by any.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from rescalefs.emulator.clock import Clock
from rescalefs.emulator.content import Content

# What kind of file a row is (Rescale API documentation, 2016; 11 and 12 in Rescale's API notebook, 2023).
OUTPUT, CHECKPOINT, SNAPSHOT = 5, 11, 12

Checksum = Literal["sha512", "md5", "both", "none"]


@dataclass
class File:
    """One output file of a run, as its row in a listing tells it; any field may be changed at any time."""

    id: str
    relative_path: str | None  # None: the API leaves some out, and clients fall back to `name`.
    content: Content
    name: str
    date_uploaded: float  # Until then the row says `isUploaded: false`.
    listed_from: float = 0.0  # When the row appears.
    type_id: int = OUTPUT
    is_uploaded: bool = True  # False: the upload never succeeds.
    is_deleted: bool = False  # Deleted rows stay in listings.
    checksum: Checksum = "sha512"
    declared_size: int | None = None  # A wrong `decryptedSize`; None tells the truth.
    row: tuple[object, bytes] | None = field(default=None, repr=False, compare=False)  # Kept by `wire`.

    def is_listed(self, now: float) -> bool:
        """Tell whether listings have the row."""
        return self.listed_from <= now

    def has_contents(self, now: float) -> bool:
        """Tell whether the bytes can be downloaded."""
        return self.is_listed(now) and self.uploaded(now) and not self.is_deleted

    def uploaded(self, now: float) -> bool:
        """Return what the row says of `isUploaded`."""
        return self.is_uploaded and self.date_uploaded <= now

    def checksums(self) -> tuple[str, ...]:
        """Return the names of the checksum functions that the row carries."""
        return {"both": ("sha512", "md5"), "none": ()}.get(self.checksum, (self.checksum,))


@dataclass(frozen=True)
class Step:
    """One change of a live file, *at_s* seconds after its run started."""

    at_s: float
    action: Literal["append", "truncate", "replace", "remove", "rotate"]
    data: bytes = b""  # Of a rotation the path that what is there is moved to.


def grow(text: str, every_s: float, count: int | None = None) -> Iterator[Step]:
    """Yield a step that appends *text* each *every_s* seconds, *count* times or for ever.

    `{n}` in the text is the number of the step, from 1; `{t}` its time in seconds.
    """
    n = 0
    while count is None or n < count:
        n += 1
        yield Step(n * every_s, "append", text.format(n=n, t=n * every_s).encode())


class LiveFile:
    """A file that a run is writing: its bytes follow a script by the clock, and whatever a test does to it.

    Threads: every method takes the world's lock, so any thread may call any of them; each is one change.
    """

    def __init__(
        self,
        path: str,
        data: bytes,
        *,
        script: Iterable[Step] = (),
        since_s: float = 0.0,
        clock: Clock,
        lock: threading.RLock,
        times: Callable[[], tuple[float, float | None]],
        move: Callable[[str, bytes], object],
    ) -> None:
        """Begin with *data*, *since_s* seconds after the run's start.

        *times* tells when the run started and when, if ever, it ended: nothing is written after that.
        *move* puts bytes into another file of the run: what a rotation does with those that were here.
        """
        self.path = path
        self.since_s = since_s
        self.is_removed = False
        self._data = bytearray(data)
        self._script = iter(script)
        self._step = next(self._script, None)
        self._clock = clock
        self._lock = lock
        self._times = times
        self._move = move

    def exists(self) -> bool:
        """Tell whether the file is there now."""
        with self._lock:
            self._catch_up()
            return not self.is_removed and self._elapsed() >= self.since_s

    def read(self) -> bytes:
        """Return the bytes of this moment."""
        with self._lock:
            self._catch_up()
            return bytes(self._data)

    def append(self, data: bytes) -> None:
        """Write *data* at the end."""
        with self._lock:
            self._catch_up()
            self._data += data

    def truncate(self, size: int = 0) -> None:
        """Cut the file to *size* bytes."""
        with self._lock:
            self._catch_up()
            del self._data[size:]

    def replace(self, data: bytes) -> None:
        """Put *data* in place of everything: another file under the same name."""
        with self._lock:
            self._catch_up()
            self._data = bytearray(data)

    def remove(self) -> None:
        """Take the file away."""
        with self._lock:
            self._catch_up()
            self.is_removed = True
            self._step = None

    def _elapsed(self) -> float:
        started, completed = self._times()
        now = self._clock.now()
        return (now if completed is None else min(now, completed)) - started

    def _catch_up(self) -> None:
        elapsed = self._elapsed()
        while self._step is not None and self._step.at_s <= elapsed:
            step, self._step = self._step, next(self._script, None)
            if step.action == "append":
                self._data += step.data
            elif step.action == "truncate":
                self._data.clear()
            elif step.action == "replace":
                self._data = bytearray(step.data)
            elif step.action == "rotate":
                self._move(step.data.decode(), bytes(self._data))
                self._data.clear()
            else:
                self.is_removed, self._step = True, None
