"""What is kept of listings over remounts: the jobs, the runs of each, the files of final runs.

They are kept for one account at one origin, and serve in two ways: a final run's files are not listed again while its
run object is the same, and without a network they are all there is.
Threads: any.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rescalefs.kept import Kept
from rescalefs.models import Job, Run, Variable
from rescalefs.packed import PackedTree

JOBS, RUNS, FILES, OWNERS = "jobs", "runs", "files", "owners"
_LENGTH_BYTES = 4


class KeptRuns(NamedTuple):
    """The runs of a job, when they were last confirmed (seconds since the epoch), and whether the job was over then."""

    runs: Mapping[str, Run]
    confirmed_at_s: float
    is_over: bool


class KeptTree(NamedTuple):
    """A final run's files, and when they were last confirmed (seconds since the epoch)."""

    tree: PackedTree
    confirmed_at_s: float


class Listings:
    """The kept listings of one account. What cannot be read is None."""

    def __init__(self, kept: Kept, account: str) -> None:
        self._kept = kept
        self._account = account

    def jobs(self) -> Mapping[str, Job] | None:
        """Return the jobs as they were last listed, by id."""
        found = self._kept.read(JOBS, (self._account,))
        if found is None:
            return None
        rows = _rows(found.body)
        return {row["id"]: Job(**{**row, "analyses": tuple(row["analyses"])}) for row in rows}

    def keep_jobs(self, jobs: Iterable[Job]) -> None:
        """Keep the list of jobs."""
        self._kept.write(JOBS, (self._account,), _json([dataclasses.asdict(job) for job in jobs]))

    def runs(self, job_id: str) -> KeptRuns | None:
        """Return the runs of a job as they were last listed, by id."""
        found = self._kept.read(RUNS, (self._account, job_id))
        if found is None:
            return None
        known = json.loads(bytes(found.body))
        if not isinstance(known, dict):  # as an earlier version kept them
            return None
        runs = {row["id"]: _run(row) for row in known["runs"]}
        return KeptRuns(runs, found.confirmed_at_s, known["is_over"])

    def keep_runs(self, job_id: str, runs: Iterable[Run], *, is_over: bool) -> None:
        """Keep the runs of a job."""
        known = {"is_over": is_over, "runs": [dataclasses.asdict(run) for run in runs]}
        self._kept.write(RUNS, (self._account, job_id), _json(known))

    def tree(self, job_id: str, run: Run) -> KeptTree | None:
        """Return a final run's files, if they were kept for a run that was just as *run* is."""
        found = self._kept.read(FILES, (self._account, job_id, run.id))
        if found is None:
            return None
        start = _LENGTH_BYTES + int.from_bytes(found.body[:_LENGTH_BYTES], "little")
        if found.body[_LENGTH_BYTES:start] != _same(run):
            return None
        try:
            return KeptTree(PackedTree(found.body[start:]), found.confirmed_at_s)
        except ValueError:
            return None

    def keep_tree(self, job_id: str, run: Run, packed: bytes) -> None:
        """Keep a final run's files."""
        same = _same(run)
        body = b"".join((len(same).to_bytes(_LENGTH_BYTES, "little"), same, packed))
        self._kept.write(FILES, (self._account, job_id, run.id), body)


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


def _fingerprint(authorization: str) -> str:
    """Return a hash of a key; keys are long and random, so that none can be found by trying."""
    return hashlib.blake2b(authorization.encode(), person=b"rescalefs owner", digest_size=16).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _rows(body: memoryview) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(bytes(body))
    return rows


def _run(row: dict[str, Any]) -> Run:
    return Run(**{**row, "variables": tuple(Variable(**variable) for variable in row["variables"])})
