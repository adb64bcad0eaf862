"""A live file in memory and a follower of it, on a clock that moves only when a test moves it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rescalefs.emulator.clock import ManualClock
from rescalefs.errors import Refused, Unavailable
from rescalefs.follow import Follower, LiveHandle
from rescalefs.models import LastLines
from rescalefs.tailing import LiveKey
from tests.stack import loader

KEY = LiveKey("LiveR", "1", "case/log")
# More than is compared at a time, and more than comes at a time.
BIG = hashlib.shake_128(b"big").digest(700_000)
WAIT_S = 20.0


class Source:
    """Serves one live file from memory, in pieces, from the byte that is asked for if it *has_ranges*.

    Its last lines are served if it *has_lines*: as text, split at newlines, without what the last newline ends.
    Faults: `error` instead of an answer, `range_error` instead of a part, `lines_error` instead of lines, `cut` after
    so many bytes, `file_type` of another file, `tells` other lines than there are.
    `asked` is called before each answer, and may take its time.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.tails = 0
        self.starts: list[int] = []
        self.bytes_sent = 0
        self.has_ranges = False
        self.has_lines = False
        self.lines: list[int] = []
        self.lines_error: Exception | None = None
        self.file_type = "ASCII text"
        self.tells: Callable[[list[str]], list[str]] = list
        self.range_error: Exception | None = None
        self.opened = 0
        self.closed = 0
        self.piece = 100_000
        self.error: Exception | None = None
        self.cut: int | None = None
        self.gate: threading.Event | None = None  # held, it lets nothing through
        self.asked: Callable[[], object] = lambda: None

    def tail(self, job_id: str, run_id: str, path: str, *, start: int, is_retried: bool, deadline_at: float) -> Stream:
        assert (job_id, run_id, path) == KEY
        self.tails += 1
        self.starts.append(start)
        if self.gate is not None:
            assert self.gate.wait(WAIT_S)
        self.asked()
        if self.error is not None:
            raise self.error
        if start and self.range_error is not None:
            raise self.range_error
        if not self.has_ranges:
            start = 0
        if start and start >= len(self.data):
            raise Refused("not satisfiable", 416)
        return Stream(self, start, self.data[start:], self.cut)

    def last_lines(
        self, job_id: str, run_id: str, path: str, lines: int, *, max_bytes: int, deadline_at: float
    ) -> LastLines:
        assert (job_id, run_id, path) == KEY
        self.lines.append(lines)
        self.asked()
        if not self.has_lines:
            raise Refused("no lines", 400)
        if (error := self.lines_error or self.error) is not None:
            raise error
        *told, rest = self.data.decode(errors="replace").split("\n")
        told = self.tells([*told, *([rest] if rest else [])][-lines:])
        if sum(map(len, told)) > max_bytes:
            raise Refused("too much", 200)
        return LastLines(f"/home/job_LiveR/work/{path}: {self.file_type}", tuple(told))


class Stream:
    def __init__(self, source: Source, start: int, data: bytes, cut: int | None) -> None:
        source.opened += 1
        self.start = start
        self._source = source
        self._data = data if cut is None else data[:cut]
        self._is_cut = cut is not None

    def readinto(self, buffer: memoryview) -> int:
        if self._is_cut and not self._data:
            raise Unavailable("cut")
        count = min(len(buffer), len(self._data), self._source.piece)
        self._source.bytes_sent += count
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def close(self) -> None:
        self._source.closed += 1


class Stack:
    """A follower of one source on a clock moved by hand."""

    def __init__(self, exits: ExitStack, directory: Path, wait_s: float = WAIT_S) -> None:
        self.source = Source()
        self.clock = ManualClock()
        self.wall_ns = 1
        self.follower = Follower(
            self.source,
            exits.enter_context(loader(wait_s)),
            lambda: directory,
            clock=self.clock.now,
            wall_clock_ns=lambda: self.wall_ns,
        )

    def poll(self) -> None:
        """Let what is known become old."""
        self.clock.advance(self.follower.interval_s(self.follower.file(KEY)) + 0.001)

    def size(self) -> int:
        return self.follower.file(KEY).size()

    def open(self) -> LiveHandle:
        return self.follower.open(KEY)
