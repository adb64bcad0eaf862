"""What is known, and for how long: answers by key, in memory. Threads: any.

An answer that holds for a time goes when it is over. One that holds for ever goes when there is no room for it, the
least recently used first. A refresh drops a level of keys, and what was asked before it is not kept any more.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

from cachetools import LRUCache, TLRUCache

from rescalefs.timing import Clock

# Answers kept at once: a screenful of jobs with their runs is hundreds.
MAX_KNOWN = 10_000
# Answers that hold for ever, the trees of final runs: two million files.
FOR_EVER_BYTES = 256 << 20
FOR_EVER_S = float("inf")

# What an answer is about: the kind, then the ids of job and run as far as it has them.
Key = tuple[str, ...]


class Answer(NamedTuple):
    """A value, how long it holds, and how large it is if it holds for ever."""

    value: Any
    lifetime_s: float
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds for which an answer is used without asking again."""

    jobs_s: float = 30.0  # the list of jobs, when somebody lists it
    job_s: float = 3600.0  # that a job exists, when somebody goes through it
    status_s: float = 10.0  # a job's status, and the runs of a job that is not over
    runs_over_s: float = 3600.0  # the runs of a job that is over
    runs_final_s: float = 86_400.0  # the same a day after the last one's end: this look confirms final runs
    live_s: float = 10.0  # the names in a live run: each look runs a command on the user's cluster
    live_failing_s: float = 60.0  # the same, or an error, while Rescale fails to tell them
    settling_s: float = 15.0  # the outputs of a run that has just ended
    miss_s: float = 30.0  # that there is no such job
    offline_s: float = 2.0  # what is shown from disk because there is no network


class Known:
    """Answers by key."""

    def __init__(self, clock: Clock, for_ever_bytes: int = FOR_EVER_BYTES) -> None:
        self.refreshes = 0  # how often there was a refresh; written under the lock
        self._lock = threading.Lock()  # guards the fields below; nothing else is done under it
        self._timed: TLRUCache[Key, Answer] = TLRUCache(
            MAX_KNOWN, ttu=lambda _key, answer, now: now + answer.lifetime_s, timer=clock
        )
        # One that is larger than all room has all of it, and is gone with the next.
        self._for_ever: LRUCache[Key, Answer] = LRUCache(
            for_ever_bytes, getsizeof=lambda answer: min(answer.size_bytes, for_ever_bytes)
        )

    def get(self, key: Key) -> Answer | None:
        """Return the answer, None if there is none any more."""
        with self._lock:
            try:  # not `get`, which looks twice
                return self._for_ever[key] if key in self._for_ever else self._timed[key]
            except KeyError:
                return None

    def keep(self, key: Key, answer: Answer, refreshes: int | None = None) -> None:
        """Keep an answer as long as it holds, unless there were more refreshes than when it was asked for."""
        with self._lock:
            if refreshes is not None and refreshes != self.refreshes:
                return
            (self._for_ever if answer.lifetime_s == FOR_EVER_S else self._timed)[key] = answer

    def drop(self, key: Key) -> None:
        """Forget an answer."""
        with self._lock:
            self._drop(key)

    def refresh(self, job_id: str | None, run_id: str | None) -> None:
        """Forget everything, what is of one job, or of one run: its files, and what its job's runs are.

        A job's name and date stay known with less than everything: they do not change, and its folder must not vanish.
        """
        with self._lock:
            self.refreshes += 1
            for key in [*self._timed, *self._for_ever]:
                kind, *ids = key
                is_of_job = ids[:1] == [job_id] and kind != "job"
                is_of_run = kind != "view" or ids[1:] == [run_id]
                if job_id is None or (is_of_job and (run_id is None or is_of_run)):
                    self._drop(key)

    def _drop(self, key: Key) -> None:
        self._timed.pop(key, None)
        self._for_ever.pop(key, None)
