"""Which files a live run has: what its live view tells, and what holds while there is none.

That a live view is refused, or is an object or `[]`, says that there is none now, which is not an empty run: the names
told last hold for one more lifetime, then the run's outputs stand alone. A live view that fails (5xx, silence, garbage)
says nothing. For a minute the names told shortly before hold, or it is an error, because outputs alone would be a short
listing. What fails for longer seems to do so for good, and keeps nobody from the outputs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rescalefs.client import Client
from rescalefs.errors import DeadlineExceeded, NotFound, Offline, Refused, Unavailable, Unseen
from rescalefs.known import Lifetimes
from rescalefs.timing import Clock

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Told:
    """What was told last of one run. Written by the one look at it that is under way."""

    paths: list[str]
    at: float = float("-inf")
    failing_since: float | None = None
    is_given_up: bool = False

    def answered(self) -> None:
        """Forget failures."""
        self.failing_since, self.is_given_up = None, False


class LiveNames:
    """The paths of live runs' files. Threads: any, but one for a run.

    *followed* tells those that somebody has open: no name vanishes under who follows it because there is no live view.
    """

    def __init__(
        self,
        client: Client,
        followed: Callable[[str, str], Iterable[str]],
        lifetimes: Lifetimes,
        *,
        deadline_s: float,
        clock: Clock,
    ) -> None:
        self._client = client
        self._followed = followed
        self._lifetimes = lifetimes
        self._deadline_s = deadline_s
        self._clock = clock
        self._lock = threading.Lock()  # guards the field below; nothing else is done under it
        self._told: dict[tuple[str, str], _Told] = {}

    def paths(self, job_id: str, run_id: str) -> list[str]:
        """Return the paths of a live run's files, and ask for them.

        Raises:
            Unseen, Offline, DeadlineExceeded: the live view fails, and it is not known what it would tell.
            AccessDenied: it may not be seen.
        """
        looked_at = self._clock()  # a live view that is slow to fail is not older for that
        with self._lock:
            told = self._told.setdefault((job_id, run_id), _Told([]))
        # Who waits for the outputs has no time for it once it seems to be dead.
        deadline_s = self._deadline_s / 2 if self._is_given_up(told, looked_at) else self._deadline_s
        try:
            told.paths = self._client.live_paths(job_id, run_id, looked_at + deadline_s)
        except (NotFound, Refused) as error:
            log.info("no live view of run %s of job %s: %s", run_id, job_id, error)
            told.answered()
            holds = looked_at - told.at < 2 * self._lifetimes.live_s
        except (Unavailable, DeadlineExceeded) as error:
            told.failing_since = looked_at if told.failing_since is None else told.failing_since
            holds = told.failing_since - told.at < self._lifetimes.live_failing_s
            if self._is_given_up(told, looked_at):
                level = logging.INFO if told.is_given_up else logging.WARNING
                log.log(level, "run %s of job %s is shown without its live files: %s", run_id, job_id, error)
                told.is_given_up, holds = True, False
            elif not holds:
                if isinstance(error, Offline | DeadlineExceeded):
                    raise
                raise Unseen(str(error)) from None
        else:
            told.answered()
            told.at = self._clock()
            return told.paths
        return told.paths if holds else list(self._followed(job_id, run_id))

    def forget(self, job_id: str, run_id: str) -> None:
        """Drop what was told of a run, because it is not live any more."""
        with self._lock:
            self._told.pop((job_id, run_id), None)

    def _is_given_up(self, told: _Told, now: float) -> bool:
        return told.failing_since is not None and now - told.failing_since >= self._lifetimes.live_failing_s
