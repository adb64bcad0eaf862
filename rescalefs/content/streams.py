"""A bounded number of transfers at a time: those that a reader waits for first, read-ahead with what is left."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum

log = logging.getLogger(__name__)

# Transfers at a time, over all files; each has a buffer of its own, so this bounds memory too.
MAX_STREAMS = 32
# Of these, read-ahead takes at most so many: a reader that asks for something else finds a free one at once.
MAX_AHEAD = 28


class _State(Enum):
    NEW = 1
    QUEUED = 2
    RUNNING = 3
    DONE = 4


class Job:
    """The place of one piece of work in the queue. Its fields are guarded by the pool's lock."""

    def __init__(self, *, is_urgent: bool) -> None:
        self.run: Callable[[], None] = lambda: None
        self.is_urgent = is_urgent
        self.state = _State.NEW


class Streams:
    """Threads that do jobs, urgent ones first. Threads: any; `start` is called after daemonising."""

    def __init__(self, threads: int = MAX_STREAMS, max_ahead: int = MAX_AHEAD) -> None:
        self._threads = threads
        self._max_ahead = max_ahead
        self._changed = threading.Condition()  # guards all below and the state of jobs; no job runs under it
        self._urgent: deque[Job] = deque()
        self._ahead: deque[Job] = deque()
        self._idle = 0
        self._started = 0
        self._ahead_running = 0
        self._is_open = False

    def start(self) -> None:
        """Accept work; threads are made as they are needed."""
        with self._changed:
            self._is_open = True

    def close(self) -> None:
        """Drop what is queued and let the threads end after what they do."""
        with self._changed:
            self._is_open = False
            for job in (*self._urgent, *self._ahead):
                job.state = _State.DONE
            self._urgent.clear()
            self._ahead.clear()
            self._changed.notify_all()

    def submit(self, job: Job, run: Callable[[], None]) -> bool:
        """Let *run* be called once on a thread of the pool, unless *job* is withdrawn.

        False if the pool is closed, or has no thread and the system gives none.
        """
        with self._changed:
            if not self._is_open:
                return False
            if job.state is not _State.NEW:
                return True  # withdrawn already
            job.run, job.state = run, _State.QUEUED
            (self._urgent if job.is_urgent else self._ahead).append(job)
            self._changed.notify()
            # A thread counts as idle until it has woken: there must be one for each job.
            if self._idle < len(self._urgent) + len(self._ahead) and self._started < self._threads:
                name = f"stream-{self._started + 1}"
                try:
                    threading.Thread(target=self._work, name=name, daemon=True).start()
                    self._started += 1  # only now: one that could not begin would be missing for ever
                except RuntimeError as error:
                    log.warning("a transfer gets no thread of its own: %s", error)
            return self._started > 0 or not self._take_back(job)

    def hurry(self, job: Job) -> None:
        """Let a job that waits as read-ahead go first: now a reader waits for it."""
        with self._changed:
            if not job.is_urgent and job.state is _State.QUEUED:
                self._ahead.remove(job)
                self._urgent.append(job)
                self._changed.notify()
            if job.state in (_State.NEW, _State.QUEUED):
                job.is_urgent = True

    def withdraw(self, job: Job) -> bool:
        """Take back a job; False if it has begun."""
        with self._changed:
            return self._take_back(job)

    def _take_back(self, job: Job) -> bool:
        if job.state is _State.QUEUED:
            (self._urgent if job.is_urgent else self._ahead).remove(job)
        elif job.state is not _State.NEW:
            return False
        job.state = _State.DONE
        return True

    def _next(self) -> Job | None:
        """Wait for a job that may run now; None when the pool is closed."""
        while self._is_open:
            if self._urgent:
                return self._urgent.popleft()
            if self._ahead and self._ahead_running < self._max_ahead:
                return self._ahead.popleft()
            self._idle += 1
            self._changed.wait()
            self._idle -= 1
        return None

    def _work(self) -> None:
        while True:
            with self._changed:
                job = self._next()
                if job is None:
                    self._started -= 1
                    return
                job.state = _State.RUNNING
                is_ahead = not job.is_urgent
                self._ahead_running += is_ahead
            try:
                job.run()
            except Exception:  # a job tells its readers itself; the thread must live for the next one
                log.exception("a transfer ended in an unforeseen way")
            finally:
                with self._changed:
                    job.state = _State.DONE
                    self._ahead_running -= is_ahead
                    if is_ahead and self._ahead:
                        self._changed.notify()
