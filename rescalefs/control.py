"""Acts on a live run: what `echo 1 > stop` and `echo 1 > snapshot` do.

An act happens in the write itself, whose error is the answer. The payload must be exact, the run is looked at afresh,
and the request goes out once: writes that come while one is under way share its answer.
Nothing else acts: not opening, reading, truncating, closing, nor another payload.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rescalefs.catalog import Catalog, RunState
from rescalefs.client import ActAnswer, Client
from rescalefs.errors import BadCommand, Busy, NotPossibleNow, RescaleError, Unavailable
from rescalefs.loader import Loader
from rescalefs.plain import plain
from rescalefs.timing import date_text

log = logging.getLogger(__name__)

# A snapshot that has not appeared by then is no longer waited for; the API tells no duration.
SNAPSHOT_PENDING_S = 900.0
_PAYLOAD_LIMIT_BYTES = 64


@dataclass(frozen=True, slots=True)
class ActKey:
    """Names one control of one run; `act` is "stop" or "snapshot"."""

    job_id: str
    run_id: str
    act: str


@dataclass(frozen=True, slots=True)
class _Last:
    """What became of the newest act of one control."""

    text: str
    at_s: float
    snapshots: frozenset[str] | None = None  # those that were there before, while a new one is waited for
    error: RescaleError | None = None


class Controls:
    """Carries out acts and remembers how the last ones went. Threads: any.

    *record* is told of each act: job, run, act, and how it went.
    """

    def __init__(
        self,
        client: Client,
        catalog: Catalog,
        loader: Loader,
        *,
        deadline_s: float,
        record: Callable[[str, str, str, str], None] = lambda _job_id, _run_id, _act, _outcome: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._catalog = catalog
        self._loader = loader
        self._deadline_s = deadline_s
        self._record = record
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()  # guards _last; no request is made under it
        self._last: dict[ActKey, _Last] = {}

    def report(self, key: ActKey) -> bytes:
        """Return one line on how the last act went. Asks nothing."""
        last = self._newest(key)
        return f"{last.text if last else f'no {key.act} was asked for'}\n".encode()

    def write(self, key: ActKey, data: bytes) -> None:
        """Act, if *data* is the payload: `1` or the act's own name, a newline after it or not.

        Raises:
            BadCommand: it is another payload; nothing was sent.
            NotPossibleNow: the run is not live; nothing was sent.
            Busy: a snapshot is under way; nothing was sent.
            AccessDenied, Unavailable: the API refused, failed, or did not answer; it was asked once.
            DeadlineExceeded: no answer in time; the act may still happen.
        """
        check_payload(data, key.act)
        before = self._newest(key)
        state = self._catalog.look_again(key.job_id, key.run_id)
        if state is not RunState.LIVE:
            stage = "has not begun" if state is RunState.PENDING else "has ended"
            raise NotPossibleNow(f"{key.act}: run {key.run_id} of job {key.job_id} {stage}; nothing was sent")
        snapshots = self._snapshots(key) if key.act == "snapshot" else None
        what = f"{key.act} of run {key.run_id} of job {key.job_id}"
        self._loader.load(key, lambda: self._send(key, what, snapshots, before), what)

    def _snapshots(self, key: ActKey) -> frozenset[str]:
        """Return the ids of the snapshots that are there; Busy if the last one asked for is not among them yet."""
        files = self._catalog.view(key.job_id, key.run_id).files
        there = frozenset(file.id for file in files if file.is_snapshot and file.is_uploaded)
        last = self._newest(key)
        is_awaited = last is not None and last.snapshots is not None and not there - last.snapshots
        if last is not None and is_awaited and self._clock() - last.at_s < SNAPSHOT_PENDING_S:
            raise Busy(f"a snapshot of run {key.run_id} of job {key.job_id} is under way")
        return there

    def _newest(self, key: ActKey) -> _Last | None:
        with self._lock:
            return self._last.get(key)

    def _send(self, key: ActKey, what: str, snapshots: frozenset[str] | None, before: _Last | None) -> None:
        """Send the act, unless another writer's went out since *before*: then its answer is that of both."""
        newest = self._newest(key)
        if newest is not None and newest is not before:
            if newest.error is not None:
                raise newest.error
            return
        try:
            answer: ActAnswer = self._client.act(key.act, key.job_id, key.run_id, self._clock() + self._deadline_s)
            if answer.exit_code != 0:
                raise Unavailable(f"{what} failed with exit code {answer.exit_code}: {answer.reason}")
        except RescaleError as error:
            self._remember(key, f"failed: {error}", None, error)
            raise
        finally:
            self._catalog.refresh(key.job_id)
        self._remember(key, f"accepted{f': {answer.reason}' if answer.reason else ''}", snapshots)

    def _remember(
        self, key: ActKey, outcome: str, snapshots: frozenset[str] | None, error: RescaleError | None = None
    ) -> None:
        when = date_text(self._wall_clock())
        line = plain(" ".join(f"{when} {key.act} {outcome}".split()))
        log.info("job %s run %s: %s", key.job_id, key.run_id, line)
        self._record(key.job_id, key.run_id, key.act, outcome)
        with self._lock:
            self._last[key] = _Last(line, self._clock(), snapshots, error)


def check_payload(data: bytes, name: str) -> None:
    """Accept `1` or *name*, with or without one newline.

    Raises:
        BadCommand: anything else.
    """
    if len(data) > _PAYLOAD_LIMIT_BYTES or data.removesuffix(b"\n") not in (b"1", name.encode()):
        raise BadCommand(f"{name}: write 1 or {name}, not {data[:_PAYLOAD_LIMIT_BYTES]!r}")
