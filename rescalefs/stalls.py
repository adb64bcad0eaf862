"""Transfers that have all but stopped: found by their rate, and cut, so that who reads them asks for the rest anew.

One of several is judged by the fastest of them: where all are slow, the link is, and none is cut. One that is alone is
judged by what it, or the one before it, gave a moment ago; a cut sets that to what was cut, so that a link that has
become slow costs one more request, not one after the other. Where all together give next to nothing, all are asked
for anew.
Each kind of transfer is a group of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from rescalefs.timing import Clock

log = logging.getLogger(__name__)

# Over which time a rate is measured, and so how long a stall lasts: longer than a lost packet holds a stream up.
STALL_S = 5.0
# Rates are measured so often in that time.
_LOOKS = 5
# Below this share of what the others give, a transfer is worth another request.
SLOW_SHARE = 0.05
# All transfers of a kind together that give less than this have stopped: no link is so slow.
DRIP_BYTES_PER_S = 1024.0
# What is left after each look of the rate that a single transfer is expected to have: a link may get slower by and by.
_MEMORY = 0.9
# The rate of a transfer that ended tells something if it brought so much.
_TELLING_BYTES = 256 << 10


class Watched:
    """One transfer. `note` and `end` are called by who reads it, the rest is its group's."""

    def __init__(self, group: _Group, interrupt: Callable[[], None], now: float, samples: int) -> None:
        self._group = group
        self.interrupt = interrupt
        self.began = now
        self.count = 0
        self.stalled: str | None = None
        self.samples: deque[tuple[float, int]] = deque([(now, 0)], maxlen=samples)

    def note(self, count: int) -> None:
        """Note bytes that have come."""
        self.count += count

    def end(self) -> None:
        """Note the end. May be called twice."""
        self._group.end(self)

    def rate(self, now: float) -> float | None:
        """Take a sample; return the bytes a second since the oldest one, None before there is one of long ago."""
        is_known = len(self.samples) == self.samples.maxlen
        then, count = self.samples[0]
        self.samples.append((now, self.count))
        return (self.count - count) / (now - then) if is_known and now > then else None


class _Group:
    """Transfers of one kind, whose rates can be compared."""

    def __init__(self, stalls: Stalls) -> None:
        self._stalls = stalls
        self.running: list[Watched] = []
        self.usual_bytes_per_s = 0.0  # of one that is alone

    def end(self, watched: Watched) -> None:
        with self._stalls.changed:
            if watched in self.running:
                self.running.remove(watched)
                if watched.count >= _TELLING_BYTES and watched.stalled is None:
                    seconds = max(1e-3, self._stalls.clock() - watched.began)
                    self.usual_bytes_per_s = max(self.usual_bytes_per_s, watched.count / seconds)

    def slow(self, now: float) -> list[Watched]:
        """Return those that have stalled, each once."""
        rates = {each: each.rate(now) for each in self.running}
        known = {each: rate for each, rate in rates.items() if rate is not None and each.stalled is None}
        best = max(known.values(), default=0.0)
        expected, found = best, []
        if len(known) > 1 and best >= DRIP_BYTES_PER_S:
            found = [each for each, rate in known.items() if rate < best * SLOW_SHARE]
        elif known and len(known) == len(self.running):  # else another has only just begun: it will tell
            if len(known) == 1:
                expected = self.usual_bytes_per_s
                self.usual_bytes_per_s = max(best, expected * _MEMORY)
            else:
                expected = DRIP_BYTES_PER_S
            if sum(known.values()) < max(DRIP_BYTES_PER_S, expected * SLOW_SHARE):
                found = list(known)
                self.usual_bytes_per_s = best
        for each in found:
            each.stalled = f"it gave {known[each]:.0f} B/s where {expected:.0f} were to be expected"
        return found


class Stalls:
    """Watches transfers. Threads: any; its own begins with the first transfer after `start`, and ends with `close`."""

    def __init__(self, stall_s: float = STALL_S, *, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._look_s = stall_s / _LOOKS
        self.changed = threading.Condition()  # guards all below and what is in the groups; nothing is cut under it
        self._groups: dict[str, _Group] = {}
        self._is_open = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch. Called in the process that stays."""
        with self.changed:
            self._is_open = True

    def close(self) -> None:
        """Let the thread end."""
        with self.changed:
            self._is_open = False
            self.changed.notify_all()

    def watch(self, kind: str, interrupt: Callable[[], None]) -> Watched:
        """Watch a transfer that has begun; *interrupt* is called once, on another thread, if it has stalled."""
        with self.changed:
            group = self._groups.setdefault(kind, _Group(self))
            watched = Watched(group, interrupt, self.clock(), _LOOKS)
            group.running.append(watched)
            if self._is_open and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="stalls", daemon=True)
                self._thread.start()
            elif self._is_open:
                self.changed.notify()
        return watched

    def look(self) -> None:
        """Measure all transfers, and cut those that have stalled."""
        with self.changed:
            now = self.clock()
            slow = [watched for group in self._groups.values() for watched in group.slow(now)]
        for watched in slow:
            watched.interrupt()

    def _work(self) -> None:
        while True:
            with self.changed:
                while self._is_open and not any(group.running for group in self._groups.values()):
                    self.changed.wait()
                if not self._is_open:
                    self._thread = None
                    return
                self.changed.wait_for(lambda: not self._is_open, self._look_s)
            self.look()
