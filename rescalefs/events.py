"""What happened to each run, as far as this mount has seen it: the lines of `.rescale/events`.

Lines are only ever added, so the file can be followed. Nothing here asks: a change is noted when somebody's look, at
the events or at anything else of the run, brings it. Memory is bounded by the runs that were looked at and by what
happened to them.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from rescalefs.catalog import RunState, RunView
from rescalefs.timing import Clock, date_text

_NS = 1_000_000_000


@dataclass(slots=True)
class _Log:
    text: bytes = b""
    changed_ns: int = 0
    state: RunState | None = None
    snapshots: frozenset[str] = field(default_factory=frozenset)


class Events:
    """The logs of all runs. Threads: any."""

    def __init__(self, *, wall_clock: Clock = time.time) -> None:
        self._wall_clock = wall_clock
        self._lock = threading.Lock()  # guards _logs and what is in it; nothing else is done under it
        self._logs: dict[tuple[str, str], _Log] = {}

    def text(self, job_id: str, run_id: str) -> tuple[bytes, int]:
        """Return the lines of one run so far, and when the last one was added (0: never)."""
        with self._lock:
            log = self._logs.get((job_id, run_id))
            return (log.text, log.changed_ns) if log else (b"", 0)

    def add(self, job_id: str, run_id: str, what: str, detail: str) -> None:
        """Add a line: the time, *what* in one word, and the *detail*."""
        now = self._wall_clock()
        with self._lock:
            self._append(self._logs.setdefault((job_id, run_id), _Log()), now, what, detail)

    def seen(self, view: RunView) -> None:
        """Add a line for the state of a run if it is another one than before, and for each snapshot that is new.

        The first look at a run tells its state, unless nothing more can happen to it.
        """
        now = self._wall_clock()
        with self._lock:
            if view.state is RunState.FINAL and (view.job_id, view.run.id) not in self._logs:
                return
        snapshots = {file.id: file.path for file in view.files if file.is_snapshot and file.is_uploaded}
        with self._lock:
            log = self._logs.setdefault((view.job_id, view.run.id), _Log())
            new = [] if log.state is None else sorted(path for id, path in snapshots.items() if id not in log.snapshots)
            for path in new:
                self._append(log, now, "snapshot", f"uploaded {path}")
            if log.state is not view.state:
                self._append(log, now, "state", view.state.value)
            log.state, log.snapshots = view.state, log.snapshots | snapshots.keys()

    def _append(self, log: _Log, now: float, what: str, detail: str) -> None:
        when = date_text(now)
        log.text += " ".join(f"{when} {what} {detail}".split()).encode(errors="backslashreplace") + b"\n"
        log.changed_ns = int(now * _NS)
