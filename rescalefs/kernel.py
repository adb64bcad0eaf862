"""What the kernel remembers of the mount: for how long, and how it is made to forget.

The kernel keeps names for an hour, and with libfuse3 attributes too, so that looking at finished runs again and again
costs nothing. What may change is an exception that we see to: its attributes are dropped half a second after they were
told. With libfuse2, whose attributes last less than a second for all, that needs no call.

What was to last and proves to be otherwise (a refresh, a run that shows other files than it did, a corrected size) is
rare, and makes the kernel forget everything at once: all names below the mount's directories, with the attributes and
pages behind them. Nothing of what the kernel was told has to be remembered here for that.

The kernel answers such calls when operations in flight let it, so they come from one thread that serves nobody else.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from rescalefs.timing import Clock, patience_s

log = logging.getLogger(__name__)

# Seconds for which names are kept, and attributes of what is final.
FINAL_S = 3600.0
# Seconds for which attributes of what may change are kept. Less than the second after which `tail -f` asks for the size
# again: else each other of its looks would be answered with what it knows.
CHANGEABLE_S = 0.9
# When they begin to be dropped, where that takes a call, by a thread that may have to wait for its turn.
DROPPED_S = 0.5
# An answer that was under way while the kernel was made to forget arrives after it; this much later it has come.
AGAIN_S = 5.0
# How long one waits until the kernel has forgotten: it takes milliseconds, unless an operation in flight holds it.
FORGET_S = 2.0
# Paths dropped before the next look at what is more urgent.
_AT_ONCE = 100
# How long the end waits for a call in flight.
_END_S = 5.0
# Paths to be dropped, at most, before listings go without attributes: 25 MB of them.
MAX_TOLD = 100_000


class Calls(Protocol):
    """What the FUSE library lets us tell the kernel, never called by a thread that serves it; and what it tells us."""

    def drop_attributes(self, path: str) -> None:
        """Drop what is known of one path, which may be nothing."""

    def drop_names(self) -> None:
        """Drop all names that are in no use, with all that is known of what they name."""

    def look(self, path: str) -> None:
        """Have the kernel look at a path, as anybody else may who serves no operation."""

    def is_interrupted(self) -> bool:
        """Tell whether who waits for the operation that this thread serves was killed, or got another signal."""


class KernelMemory:
    """Sees to it that the kernel believes nothing for longer than it is true. Threads: any.

    Before `start` there is no kernel, and nothing to be done.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._calls: Calls | None = None
        self._in_use: Callable[[], Iterable[str]] = lambda: ()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()  # guards the fields below; no call to the kernel under it
        self._due: dict[str, float] = {}  # when to drop the attributes of a path
        self._order: list[tuple[float, str]] = []  # a heap of the same, where times may be too early
        self._waiting: list[threading.Event] = []  # of those who want everything to be forgotten
        self._again_at = float("inf")
        self._is_closed = False
        # How often everything was forgotten. An answer that was begun before the last time may not be kept for long.
        self.generation = 0
        self._replaced: frozenset[str] = frozenset()
        self._to_find: set[str] = set()  # of these those for which the kernel may yet have another kind

    def start(self, calls: Calls, in_use: Callable[[], Iterable[str]]) -> None:
        """Make the thread. *in_use* tells the open paths: their names stay, so their attributes are dropped."""
        self._calls, self._in_use = calls, in_use
        self._thread = threading.Thread(target=self._work, args=(calls,), name="kernel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and return when it makes no more calls; let nobody wait. May be called twice."""
        with self._changed:
            self._is_closed = True
            for event in self._waiting:
                event.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_END_S)

    def told(self, path: str) -> None:
        """The kernel is being told attributes that may change: drop them soon."""
        if self._calls is None:
            return
        due_at = self._clock() + DROPPED_S
        with self._changed:
            if path not in self._due:
                heapq.heappush(self._order, (due_at, path))
                if self._order[0][1] is path:
                    self._changed.notify()
            self._due[path] = due_at

    @property
    def has_room(self) -> bool:
        """Tell whether more attributes that may change should be told than are asked for."""
        return len(self._due) < MAX_TOLD

    def is_unsure(self, path: str) -> bool:
        """Tell whether the kernel may still believe attributes of *path* that were told as what may change."""
        return path in self._due

    def is_replaced(self, path: str, generation: int) -> bool:
        """Tell whether *path* has become a directory, or a file, since an answer was begun in *generation*.

        The kernel takes an answer of another kind for an error, unless it looks the name up anew.
        """
        return generation != self.generation and path in self._replaced

    def forget(self, replaced: Iterable[str] = ()) -> None:
        """Make the kernel forget everything, and wait until it has, though not for long.

        *replaced* are paths where a file was, and a directory is now, or the other way round.
        """
        done = threading.Event()
        with self._changed:
            self.generation += 1
            self._replaced = frozenset(replaced)
            self._to_find |= self._replaced
            if self._calls is None or self._is_closed:
                return
            self._waiting.append(done)
            self._again_at = self._clock() + AGAIN_S
            self._changed.notify()
        if not done.wait(patience_s(FORGET_S)):
            log.info("an operation in flight keeps the kernel from forgetting; it will")

    def _work(self, calls: Calls) -> None:
        while (work := self._next()) is not None:
            events, paths = work
            if events is not None:
                in_use = set(self._in_use())
                calls.drop_names()
                for path in in_use:
                    calls.drop_attributes(path)
                for event in events:
                    event.set()
                # What is open keeps its name, and so its kind for all who go on below it, until somebody looks at it.
                # That may wait for Rescale, for which what is told elsewhere must not stay in the kernel.
                if found := in_use & self._found():
                    threading.Thread(target=_look, args=(calls, found), name="looks", daemon=True).start()
            for path, due_at in paths:
                calls.drop_attributes(path)
                with self._changed:
                    if self._due[path] == due_at:
                        del self._due[path]
                    else:  # told again meanwhile
                        heapq.heappush(self._order, (self._due[path], path))

    def _found(self) -> set[str]:
        """Return the paths that are of another kind now; not again once no answer from before can be under way."""
        with self._changed:
            found = set(self._to_find)
            if self._again_at == float("inf"):
                self._to_find.clear()
            return found

    def _next(self) -> tuple[list[threading.Event] | None, list[tuple[str, float]]] | None:
        """Wait for what is to be done: everything to be forgotten, or some paths; None at the end."""
        with self._changed:
            while not self._is_closed:
                now = self._clock()
                if self._waiting or self._again_at <= now:
                    events, self._waiting = self._waiting, []
                    if self._again_at <= now:
                        self._again_at = float("inf")
                    return events, []
                if self._order and self._order[0][0] <= now:
                    return None, self._pop(now)
                first_at = min(self._again_at, self._order[0][0] if self._order else float("inf"))
                self._changed.wait(None if first_at == float("inf") else first_at - now)
        return None

    def _pop(self, now: float) -> list[tuple[str, float]]:
        """Take some of the paths whose time has come off the heap. Called with the lock."""
        found: list[tuple[str, float]] = []
        while self._order and self._order[0][0] <= now and len(found) < _AT_ONCE:
            _, path = heapq.heappop(self._order)
            due_at = self._due[path]
            if due_at > now:  # told again since
                heapq.heappush(self._order, (due_at, path))
            else:
                found.append((path, due_at))
        return found


def _look(calls: Calls, paths: Iterable[str]) -> None:
    for path in paths:
        calls.look(path)
