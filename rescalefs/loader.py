"""Single flight: the same question asked by many callers is answered by one piece of work on our own threads.

A FUSE callback never talks to the network itself: it asks a `Loader` and waits for the future, at most so long.
A resolver or a server that hangs then holds one of our threads, never a caller past its deadline. Work of one *lane*,
which may hang together, takes a part of the threads alone, so that others find one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from rescalefs.errors import DeadlineExceeded, Unavailable
from rescalefs.timing import LOOK_S, begin_anew, patience_s

T = TypeVar("T")


class Flight(Future[T]):
    """Work that was begun; `came_at` is when a part of its answer came last, on `time.monotonic`'s scale."""

    came_at = float("-inf")


class _Lane:
    """What one lane is at, guarded by its loader's lock."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[tuple[Hashable, Flight[Any], Callable[[], Any]]] = deque()


class Loader:
    """A bounded pool on which equal work in flight is collapsed.

    Threads: any. `start` is called once the process is the one that stays (after daemonising).
    """

    def __init__(self, name: str, threads: int, wait_s: float, lane_threads: int | None = None) -> None:
        self._name = name
        self._threads = threads
        self._lane_threads = threads if lane_threads is None else lane_threads
        self._wait_s = wait_s
        self._lock = threading.Lock()  # guards all below; nothing is waited for under it
        self._flights: dict[Hashable, Flight[Any]] = {}
        self._lanes: dict[Hashable, _Lane] = defaultdict(_Lane)  # those with work under way
        self._pool: ThreadPoolExecutor | None = None
        self._working_at = threading.local()  # its `flight` is that of a thread of the pool

    def start(self) -> None:
        """Make the threads' pool."""
        with self._lock:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name)

    def close(self) -> None:
        """Refuse new work and let those who wait fail; running work ends by its own deadlines."""
        with self._lock:
            pool, self._pool = self._pool, None
            flights = list(self._flights.values())
            self._flights.clear()
            self._lanes.clear()
        for flight in flights:
            _land(flight, error=Unavailable("the mount is closing"))
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def in_flight(self) -> list[str]:
        """What is being asked now, in words for a log."""
        with self._lock:
            keys = list(self._flights)
        return [" ".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in keys]

    def begin(self, key: Hashable, work: Callable[[], T], lane: Hashable = None) -> Flight[T]:
        """Start *work* under *key*, or join what is in flight under it; None is no lane.

        Raises:
            Unavailable: the mount is being closed.
        """
        return self._join(key, work, lane)[0]

    def _join(self, key: Hashable, work: Callable[[], T], lane: Hashable) -> tuple[Flight[T], bool]:
        """Do as `begin` does, and tell whether the flight was on its way already."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, True
            if self._pool is None:
                raise Unavailable("the mount is closing")
            flight = self._flights[key] = Flight()
            if lane is None:
                self._pool.submit(self._fly, key, flight, work)
            else:
                self._lanes[lane].waiting.append((key, flight, work))
                self._go_on(lane)
        return flight, False

    def _go_on(self, lane: Hashable) -> None:
        """Begin what waits in a lane, as far as it has threads. Called with the lock held."""
        own = self._lanes[lane]
        while own.waiting and own.running < self._lane_threads and self._pool is not None:
            own.running += 1
            self._pool.submit(self._fly_in, lane, own, *own.waiting.popleft())
        if not own.running:
            del self._lanes[lane]

    def load(self, key: Hashable, work: Callable[[], T], what: str, lane: Hashable = None) -> T:
        """Return the result of *work*, shared with all who ask for *key* meanwhile.

        Raises:
            DeadlineExceeded: the answer took longer than this loader lets a caller wait; *what* names the thing.
            RescaleError: whatever *work* raised.
        """
        flight, is_old = self._join(key, work, lane)
        try:
            return self.result(flight, what)
        except DeadlineExceeded:
            if not (is_old and flight.done() and patience_s(self._wait_s) > 0):
                raise
        return self.result(self.begin(key, work, lane), what)  # the time of those who began it was over, ours is not

    def part_came(self) -> Callable[[], None]:
        """Return what tells that a part of the answer has come that this thread works at; any thread may call it.

        Who waits for the whole then waits as long as before again.
        """
        flight: Flight[Any] | None = getattr(self._working_at, "flight", None)

        def tell() -> None:
            if flight is not None:
                flight.came_at = time.monotonic()

        return tell

    def result(self, flight: Flight[T], what: str) -> T:
        """Wait for *flight* no longer than this loader lets a caller wait, and than the caller's own time allows.

        Both begin anew with each part of the answer that comes.

        Raises: as `load`.
        """
        began = time.monotonic()
        wait_s, is_late = patience_s(self._wait_s), False
        while True:
            try:
                answer = flight.result(wait_s)
            except (FutureTimeout, TimeoutError) as error:  # one class from Python 3.11 on
                if flight.done() and flight.exception() is error:  # the work itself raised it
                    raise Unavailable(f"{what}: {error}") from error
                left_s = flight.came_at + self._wait_s - time.monotonic()
                wait_s, is_late = min(left_s, LOOK_S), True
                if left_s <= 0 or not begin_anew(left_s):
                    raise DeadlineExceeded(f"{what}: no answer in {time.monotonic() - began:.1f} s") from None
            else:
                if is_late:
                    begin_anew(self._wait_s)  # for what its callback asks next
                return answer

    def _fly(self, key: Hashable, flight: Flight[T], work: Callable[[], T]) -> None:
        self._working_at.flight = flight
        try:
            result = work()
        except BaseException as error:  # whatever it is, it belongs to those who wait
            self._forget(key, flight)
            _land(flight, error=error)
        else:
            self._forget(key, flight)
            _land(flight, result)

    def _fly_in(self, lane: Hashable, own: _Lane, key: Hashable, flight: Flight[Any], work: Callable[[], Any]) -> None:
        try:
            self._fly(key, flight, work)
        finally:
            with self._lock:
                own.running -= 1
                if self._lanes.get(lane) is own:  # else the loader was closed meanwhile
                    self._go_on(lane)

    def _forget(self, key: Hashable, flight: Flight[Any]) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]


def _land(flight: Future[Any], result: object = None, error: BaseException | None = None) -> None:
    """Give those who wait their answer, unless they have one already: closing and working may both try."""
    with contextlib.suppress(InvalidStateError):
        if error is not None:
            flight.set_exception(error)
        else:
            flight.set_result(result)
