"""Sweeps: the files of many ended runs from one listing of their job, where that costs fewer requests than one a run.

Who goes through a job run by run (`find`, `grep -r`, `cp -r`) is known by his second or third run; who looks into one
pays for that one alone. The listing of a job tells the run of a file by its storage key, and this is believed as far
as it can be checked: see `Sweeps.sweep`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from cachetools import TTLCache

from rescalefs.client import FILES_PAGE, Client
from rescalefs.errors import Offline, RescaleError
from rescalefs.loader import Loader
from rescalefs.models import RemoteFile, Run
from rescalefs.rows import FileRows
from rescalefs.timing import Clock

log = logging.getLogger(__name__)

# Runs of a job that somebody has listed one by one in the last minute before all are listed at once: another one if a
# single page serves all, else another two.
LOOKS_S = 60.0
_LOOKS = 2
# Above this a sweep would take longer than a caller waits: 40 pages at once and then 20 a second.
MOST_PAGES = 100
# A job is not swept again for so long, whatever came of it.
AGAIN_S = 600.0
_MAX_JOBS = 1000


class Sweeps:
    """Decides and does. Threads: any; a sweep runs on the loader's, for *deadline_s* at most, callers wait for it."""

    def __init__(self, client: Client, loader: Loader, *, deadline_s: float, clock: Clock) -> None:
        self._client = client
        self._loader = loader
        self._deadline_s = deadline_s
        self._clock = clock
        self._lock = threading.Lock()  # guards the two fields below; nothing else is done under it
        self._looks: TTLCache[str, frozenset[str]] = TTLCache(_MAX_JOBS, LOOKS_S, timer=clock)
        self._swept: TTLCache[str, bool] = TTLCache(_MAX_JOBS, AGAIN_S, timer=clock)

    def looked_into(
        self, job_id: str, run: Run, ended: Sequence[Run], is_missing: Callable[[Run], bool]
    ) -> frozenset[str]:
        """Note that *run* must be listed; return the runs that were listed before it if a sweep is worth it, else none.

        *ended* are the runs that a sweep can bring, *is_missing* tells which of them are not known.
        """
        with self._lock:
            before = self._looks.get(job_id, frozenset()) - {run.id}
            self._looks[job_id] = before | {run.id}
            is_swept = job_id in self._swept
        pages = _pages_of(sum(each.output_count or 0 for each in ended))
        is_time = len(before) >= (1 if pages == 1 else _LOOKS)
        if is_swept or not is_time or pages > MOST_PAGES or any(each.output_count is None for each in ended):
            return frozenset()
        cost = 0
        for each in ended:
            cost += _pages_of(each.output_count or 0) if is_missing(each) else 0
            if cost > pages:
                return before
        return frozenset()

    def sweep(
        self,
        job_id: str,
        listed: Mapping[str, Collection[RemoteFile]],
        ended: Sequence[Run],
        take: Callable[[Mapping[str, FileRows]], None],
    ) -> None:
        """List the files of a job, and have *take* called with those of each ended run; or with nothing at all.

        Nothing of it is used if its pages do not agree, or if it shows of runs that were *listed* one by one anything
        but what they have; if none of these has any files, it is not asked for. Whether the files of a run are all of
        them, its count must tell.
        """
        if any(each.output_count for each in ended) and not any(listed.values()):
            return

        def work() -> None:
            found = _by_run(self._client.job_files(job_id, self._clock() + self._deadline_s), ended)
            if any(set(found.get(run_id, ())) != set(known) for run_id, known in listed.items()):
                log.warning("the listing of job %s tells other files of a run than the run's own; not used", job_id)
            else:
                take(found)

        try:
            self._loader.load(("sweep", job_id), work, f"the files of all runs of job {job_id}")
        except Offline:
            return  # the run's own listing will say so
        except RescaleError as error:
            log.info("%s; listing each run of job %s by itself", error, job_id)
        with self._lock:
            self._swept[job_id] = True  # one that is too slow is not waited for again, and serves when it comes

    def forget(self, job_id: str | None) -> None:
        """Forget what was swept, of one job or of all: somebody wants to know it afresh."""
        with self._lock:
            for known in (self._swept, self._looks):
                if job_id is None:
                    known.clear()
                else:
                    known.pop(job_id, None)


def _by_run(files: FileRows, ended: Sequence[Run]) -> Mapping[str, FileRows]:
    rows = files.by_run()
    # Where the run of a file cannot be told, it may be of one that seems to have none.
    return {run.id: rows.get(run.id, FileRows()) for run in ended if run.id in rows or None not in rows}


def _pages_of(files: int) -> int:
    return max(1, -(-files // FILES_PAGE))
