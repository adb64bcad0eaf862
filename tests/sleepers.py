"""Threads that wait on one clock, which goes on only when all of them wait: what a schedule does, without its time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from rescalefs.emulator.clock import ManualClock


class Sleepers:
    """The threads and their clock. A test's own thread calls all but `wait`."""

    def __init__(self) -> None:
        self.clock = ManualClock(0.0)
        self._awake = 0
        self._asleep: list[tuple[float, int, threading.Event]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()  # guards the fields above

    def begin(self, work: Callable[[], None]) -> None:
        """Do *work* on a thread until it ends or waits."""

        def run() -> None:
            work()
            with self._changed:
                self._awake -= 1
                self._changed.notify_all()

        with self._changed:
            self._awake += 1
        threading.Thread(target=run, daemon=True).start()
        self._settle()

    def wait(self, woken: threading.Event, seconds: float) -> None:
        """Wait on the clock, or until somebody sets *woken*."""
        entry = (self.clock.now() + seconds, next(self._order), woken)
        with self._changed:
            self._asleep.append(entry)
            self._awake -= 1
            self._changed.notify_all()
        assert woken.wait(20)
        with self._changed:
            self._asleep.remove(entry)
            self._awake += 1
            self._changed.notify_all()

    def let_pass(self, seconds: float) -> None:
        """Wake whoever is due in the next *seconds*, in order."""
        until = self.clock.now() + seconds
        self._settle()
        while self._asleep and min(self._asleep)[0] <= until:
            due_at, _, woken = min(self._asleep)
            self.clock.advance(max(0.0, due_at - self.clock.now()))
            woken.set()
            self._settle()
        self.clock.advance(until - self.clock.now())

    def _settle(self) -> None:
        """Wait until nobody does anything any more."""
        with self._changed:
            is_still = lambda: self._awake == 0 and not any(entry[2].is_set() for entry in self._asleep)  # noqa: E731
            assert self._changed.wait_for(is_still, 20)
