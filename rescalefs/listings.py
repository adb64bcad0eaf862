"""What is kept over remounts: the jobs, the runs of each, the files of final runs; whose key it is, rates learnt.

Listings are kept for one account at one origin, and serve in two ways: a final run's files are not listed again while
its run object is the same, and without a network they are all there is.
Threads: any.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from rescalefs.kept import Kept
from rescalefs.models import Job, Run, Variable
from rescalefs.packed import Buffer, PackedTree

log = logging.getLogger(__name__)
T = TypeVar("T")

JOBS, RUNS, FILES, OWNERS, RATES, REFRESHED = "jobs", "runs", "files", "owners", "rates", "refreshed"
# How long rates are believed that were learnt from the API: they depend on the user's other tools, too.
RATES_TRUSTED_S = 86_400.0
# Refreshes that are remembered one by one, in case the disk cannot keep them.
MAX_REFRESHED = 1000
_LENGTH_BYTES = 4
_OVER, _NOT_OVER = b"1", b"0"  # what the runs of a job begin with


class KeptRuns(NamedTuple):
    """The runs of a job, when they were last confirmed (seconds since the epoch), and whether the job was over then.

    Neither they nor a `KeptTree` are to be trusted if somebody wanted to know it afresh since.
    """

    runs: Mapping[str, Run]
    confirmed_at_s: float
    is_over: bool
    is_trusted: bool


class KeptTree(NamedTuple):
    """A final run's files."""

    tree: PackedTree
    is_trusted: bool


class Listings:
    """The kept listings of one account. What cannot be read is None."""

    def __init__(self, kept: Kept, account: str) -> None:
        self._kept = kept
        self._account = account
        self._lock = threading.Lock()  # guards the field below; nothing else is done under it
        self._refreshed: dict[tuple[str, ...], float] = {}  # when each was refreshed, should the disk not tell

    def jobs(self) -> Mapping[str, Job] | None:
        """Return the jobs as they were last listed, by id."""
        found = self._kept.read(JOBS, (self._account,))
        if found is None:
            return None
        return _by_id(found.body, lambda row: Job(**{**row, "analyses": tuple(row["analyses"])}))

    def keep_jobs(self, jobs: Iterable[Job]) -> None:
        """Keep the list of jobs."""
        self._kept.write(JOBS, (self._account,), _json([dataclasses.asdict(job) for job in jobs]))

    def runs(self, job_id: str) -> KeptRuns | None:
        """Return the runs of a job as they were last listed, by id."""
        found = self._kept.read(RUNS, (self._account, job_id))
        if found is None:
            return None
        runs = _by_id(found.body[1:], _run)
        if runs is None:
            return None
        is_trusted = self._is_trusted(found.confirmed_at_s, job_id, RUNS)
        return KeptRuns(runs, found.confirmed_at_s, found.body[:1] == _OVER, is_trusted)

    def keep_runs(self, job_id: str, runs: Iterable[Run], asked_at_s: float, *, is_over: bool) -> None:
        """Keep the runs of a job, which were asked for at that time."""
        rows = _json([dataclasses.asdict(run) for run in runs])
        self._kept.write(RUNS, (self._account, job_id), (_OVER if is_over else _NOT_OVER) + rows, asked_at_s)

    def tree(self, job_id: str, run: Run) -> KeptTree | None:
        """Return a final run's files, if they were kept for a run that was just as *run* is."""
        found = self._kept.read(FILES, (self._account, job_id, run.id))
        if found is None:
            return None
        start = _LENGTH_BYTES + int.from_bytes(found.body[:_LENGTH_BYTES], "little")
        if found.body[_LENGTH_BYTES:start] != _same(run):
            return None
        try:
            is_trusted = self._is_trusted(found.confirmed_at_s, job_id, FILES, run.id)
            return KeptTree(PackedTree(found.body[start:]), is_trusted)
        except ValueError:
            return None

    def keep_tree(self, job_id: str, run: Run, packed: Buffer, asked_at_s: float) -> None:
        """Keep a final run's files, which were asked for at that time."""
        same = _same(run)
        body = b"".join((len(same).to_bytes(_LENGTH_BYTES, "little"), same, packed))
        self._kept.write(FILES, (self._account, job_id, run.id), body, asked_at_s)

    def refresh(self, job_id: str | None = None, run_id: str | None = None) -> None:
        """Trust nothing from before now: of everything, of a job, or of a run, its files and what its job's runs are.

        Later mounts do not trust it either. The notice of that goes, where room is made, after all that is older.
        """
        if job_id is None:
            marks: list[tuple[str, ...]] = [()]
        else:
            marks = [(job_id,)] if run_id is None else [(job_id, RUNS), (job_id, FILES, run_id)]
        now_s = self._kept.wall_clock()
        for mark in marks:
            with self._lock:
                if mark == () or len(self._refreshed) >= MAX_REFRESHED:
                    self._refreshed = {(): now_s}
                self._refreshed[mark] = now_s
            self._kept.write(REFRESHED, (self._account, *mark), b"", now_s)

    def _is_trusted(self, confirmed_at_s: float, *what: str) -> bool:
        """Tell whether what was confirmed at that time is newer than all refreshes of what it is about.

        What seems to come from the future was confirmed by a wrong clock: when, nobody knows.
        """
        if confirmed_at_s > self._kept.wall_clock():
            return False
        for mark in ((), what[:1], what):
            kept = self._kept.read(REFRESHED, (self._account, *mark))
            with self._lock:
                refreshed_at_s = self._refreshed.get(mark, float("-inf"))
            if confirmed_at_s <= max(refreshed_at_s, kept.confirmed_at_s if kept is not None else refreshed_at_s):
                return False
        return True


def is_same(one: Run, other: Run) -> bool:
    """Tell whether two looks at a run saw the same outputs, as far as the run's object tells."""
    return _facts(one) == _facts(other)


def _same(run: Run) -> bytes:
    return _json(_facts(run))


def _facts(run: Run) -> tuple[int | None, ...]:
    return run.started_ns, run.completed_ns, run.output_count, run.output_bytes


def recall_owner(kept: Kept, origin: str, authorization: str) -> str | None:
    """Return whose key it is, as Rescale said when it could last be asked."""
    found = kept.read(OWNERS, (origin, _fingerprint(authorization)))
    return None if found is None else str(found.body, "utf-8")


def keep_owner(kept: Kept, origin: str, authorization: str, owner: str) -> None:
    """Keep whose key it is, under a fingerprint that does not tell the key."""
    kept.write(OWNERS, (origin, _fingerprint(authorization)), owner.encode())


def recall_rates(kept: Kept, account: str, now_s: float) -> Mapping[str, float]:
    """Return the requests a second by scope that an account's last mount had learnt, unless it was too long ago."""
    found = kept.read(RATES, (account,))
    if found is None or not 0 <= now_s - found.confirmed_at_s < RATES_TRUSTED_S:
        return {}
    try:
        return {scope: float(per_s) for scope, per_s in json.loads(bytes(found.body)).items()}
    except (ValueError, TypeError, AttributeError):  # of another version
        return {}


def keep_rates(kept: Kept, account: str, rates: Mapping[str, float]) -> None:
    """Keep the rates that an account's mount has learnt."""
    kept.write(RATES, (account,), _json(rates))


def _fingerprint(authorization: str) -> str:
    """Return a hash of a key; keys are long and random, so that none can be found by trying."""
    return hashlib.blake2b(authorization.encode(), person=b"rescalefs owner", digest_size=16).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _by_id(body: memoryview, make: Callable[[dict[str, Any]], T]) -> Mapping[str, T] | None:
    """Return the rows as objects; None if another version of the program has kept other ones."""
    try:
        return {row["id"]: make(row) for row in json.loads(bytes(body))}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        log.info("a kept listing is of another version (%s); it is not used", error)
        return None


def _run(row: dict[str, Any]) -> Run:
    return Run(**{**row, "variables": tuple(Variable(**variable) for variable in row["variables"])})
