"""The endpoints of the Rescale API that a mount needs, one method each: typed values in and out.

It knows neither HTTP's details (`transport`) nor paths of the mount nor errno.
A listing is whole or an error, and there is one function that reads pages.

Facts about the API and their sources are in docs/architecture.md.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote

from rescalefs.budget import CONTENTS, JOBS, RUNS, Priority, Turn
from rescalefs.errors import Corrupt, NotFound, Refused, Unavailable
from rescalefs.models import Job, LastLines, RemoteFile, Run, Status
from rescalefs.rows import FileRows
from rescalefs.transfer import Transfer
from rescalefs.transport import Transport

log = logging.getLogger(__name__)
T = TypeVar("T")

# The API clamps page_size to 1000 silently; for jobs Rescale's own client asks for 200.
FILES_PAGE = 1000
JOBS_PAGE = 200
# Pages of one listing asked for at once; the budget is the real limit, this bounds memory and threads.
PARALLEL_PAGES = 8
# Pages asked for before looking whether the listing goes on: what a `count` far too high may cost.
PAGES_AHEAD = 64
# The longest that a listing may take whose pages keep coming: a million files at a fifth of the usual rate.
LISTING_S = 300.0
# Rows that moved between pages while a listing was read make it start over, at most so often.
LISTING_ATTEMPTS = 4
# What an answer about a file says of itself; the bytes of one come as text/plain or application/octet-stream, whatever
# they are, as far as clients have seen.
_NO_BYTES = frozenset({"application/json", "text/html"})


class _Rows(Hashable, Sized, Protocol):
    """The rows of a page, or of several."""


R = TypeVar("R", bound=_Rows)


@dataclass(frozen=True, slots=True)
class _Kind(Generic[R]):
    """How the rows of a listing are held: made of a page, joined, and freed of those that came twice."""

    make: Callable[[Iterable[object]], R]
    join: Callable[[Sequence[R]], R]
    unique: Callable[[R], R]


def _objects(make: Callable[[object], T], identity: Callable[[T], object]) -> _Kind[tuple[T, ...]]:
    """Return the kind whose rows are objects."""
    return _Kind(
        lambda rows: tuple(map(make, rows)),
        lambda pages: tuple(chain.from_iterable(pages)),
        lambda rows: tuple({identity(row): row for row in rows}.values()),
    )


_JOBS = _objects(Job.from_api, lambda job: job.id)
_RUNS = _objects(Run.from_api, lambda run: run.id)
_STATUSES = _objects(Status.from_api, id)
_FILES = _Kind(lambda rows: FileRows.of(map(RemoteFile.from_api, rows)), FileRows.joined, FileRows.unique)


def _nobody() -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class ActAnswer:
    """What the API said to a stop or a snapshot: `exit_code` 0 is success, `reason` is for people."""

    exit_code: int
    reason: str


class Client:
    """The API as typed calls. Threads: any.

    Every call ends by its `deadline_at` (on `time.monotonic`'s scale), and raises the errors of `Transport`.
    A listing has that long for each of its pages, and `LISTING_S` for all; it calls *came* after each page.
    `start` makes the threads that read pages side by side; it is called after daemonising.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._pages_pool: ThreadPoolExecutor | None = None
        # Held while a page becomes rows, and nothing else: side by side that would take as long, and more memory.
        self._making = threading.Lock()

    def start(self) -> None:
        """Make the threads that read pages."""
        self._pages_pool = ThreadPoolExecutor(PARALLEL_PAGES, thread_name_prefix="pages")

    def close(self) -> None:
        """Let the threads go."""
        if self._pages_pool is not None:
            self._pages_pool.shutdown(wait=False, cancel_futures=True)

    def whoami(self, deadline_at: float) -> str:
        """Return the e-mail of the key's owner: the cheapest check of key and origin."""
        answer = self._transport.json("users_me", JOBS, "users/me/", deadline_at)
        email = answer.get("email") if isinstance(answer, Mapping) else None
        return email if isinstance(email, str) else ""

    def jobs(self, deadline_at: float, came: Callable[[], None] = _nobody) -> Sequence[Job]:
        """Return all jobs that the user owns or shares, as the API orders them."""
        return self._listing("jobs", JOBS, "jobs/", JOBS_PAGE, deadline_at, _JOBS, came)

    def job(self, job_id: str, deadline_at: float) -> Job:
        """Return one job; its status comes from the status history, which the detail lacks."""
        path = f"jobs/{_segment(job_id)}/"
        job = Job.from_api(self._transport.json("job", JOBS, path, deadline_at), id=job_id)
        return job if job.status is not None else replace(job, status=self.status(job_id, deadline_at))

    def status(self, job_id: str, deadline_at: float) -> str:
        """Return the word of a job's newest status, "" if it never had one."""
        newest = self.newest_status(job_id, deadline_at)
        return "" if newest is None else newest.text

    def newest_status(self, job_id: str, deadline_at: float) -> Status | None:
        """Return a job's newest status, None if it never had one. The order of the history is not relied on."""
        path = f"jobs/{_segment(job_id)}/statuses/"
        rows = self._listing("statuses", JOBS, path, FILES_PAGE, deadline_at, _STATUSES)
        return max(rows, key=lambda status: status.date_ns, default=None)

    def runs(self, job_id: str, deadline_at: float, came: Callable[[], None] = _nobody) -> Sequence[Run]:
        """Return the runs of a job, none before the first one began."""
        path = f"jobs/{_segment(job_id)}/runs/"
        return self._listing("runs", RUNS, path, FILES_PAGE, deadline_at, _RUNS, came)

    def files(self, job_id: str, run_id: str, deadline_at: float, came: Callable[[], None] = _nobody) -> FileRows:
        """Return the output files of a run, deleted ones left out."""
        path = f"{_run_path(job_id, run_id)}files/"
        return self._listing("run_files", JOBS, path, FILES_PAGE, deadline_at, _FILES, came).present()

    def job_files(self, job_id: str, deadline_at: float) -> FileRows:
        """Return the output files of all runs of a job, deleted ones left out, from one read of its pages.

        Raises:
            Corrupt: the pages do not agree with each other.
        """
        path = f"jobs/{_segment(job_id)}/files/"
        return self._listing("job_files", JOBS, path, FILES_PAGE, deadline_at, _FILES, attempts=1).present()

    def live_paths(self, job_id: str, run_id: str, deadline_at: float) -> list[str]:
        """Return the paths of the files in a live run's working directory.

        Raises:
            NotFound: there is no live view now; the API says so in many ways, an empty list among them.
        """
        path = f"{_run_path(job_id, run_id)}directory-contents/"
        answer = self._transport.json("directory_contents", RUNS, path, deadline_at, is_retried=False)
        if not isinstance(answer, list) or not answer:
            raise NotFound(f"no live view of run {run_id} of job {job_id} now")
        paths = [row.get("path") if isinstance(row, Mapping) else None for row in answer]
        if not all(isinstance(path, str) and path for path in paths):
            raise Corrupt(f"the live view of run {run_id} of job {job_id} has entries without a path")
        return [path for path in paths if path is not None]

    def contents(
        self, file_id: str, start: int, end: int | None, *, turn: Turn | None = None, deadline_at: float
    ) -> Transfer:
        """Begin to read bytes [start, end) of an output file, to its end if *end* is None.

        It is urgent unless *turn* says else.
        The answer may begin at 0 though *start* is higher: look at `Transfer.start`.
        """
        path = f"files/{_segment(file_id)}/contents/"
        return self._transport.stream("contents", CONTENTS, path, deadline_at, start=start, end=end, turn=turn)

    def tail(
        self,
        job_id: str,
        run_id: str,
        path: str,
        *,
        start: int = 0,
        is_retried: bool = True,
        deadline_at: float,
    ) -> Transfer:
        """Begin to read a live file from *start* to its present end. (No trailing slash, unlike all others.)

        One that *is_retried* is waited for; else the next look is another try, and there is no hurry.
        The answer may begin at 0 though *start* is higher: look at `Transfer.start`.

        Raises:
            Unavailable: the run is not live any more; the API says so in many ways, a 200 with JSON among them.
        """
        resource = _tail_path(job_id, run_id, path)
        turn = Turn(Priority.READ if is_retried else Priority.AHEAD)
        transfer = self._transport.stream(
            "tail", RUNS, resource, deadline_at, start=start, turn=turn, is_retried=is_retried
        )
        if transfer.media_type in _NO_BYTES:
            transfer.close()
            raise Unavailable(f"{resource}: the answer is {transfer.media_type}, not the bytes of a file")
        return transfer

    def last_lines(
        self, job_id: str, run_id: str, path: str, lines: int, *, max_bytes: int, deadline_at: float
    ) -> LastLines:
        """Return the last *lines* lines of a live file, or all of them; asked once, because the next look asks again.

        Raises:
            Refused: the answer has more than *max_bytes*.
            Corrupt: it is something else, such as the whole file.
            Unavailable: the run is not live any more.
        """
        resource = f"{_tail_path(job_id, run_id, path)}?lines={lines}"
        answer = self._transport.json(
            "tail", RUNS, resource, deadline_at, priority=Priority.AHEAD, is_retried=False, max_bytes=max_bytes
        )
        try:
            return LastLines.from_api(answer)
        except Corrupt as error:
            raise Unavailable(f"{resource}: {error}") from None

    def act(self, act: str, job_id: str, run_id: str, deadline_at: float) -> ActAnswer:
        """Ask once for "stop" or "snapshot"; its effect comes some time after the answer.

        A 200 can carry a failure: look at `exit_code`.
        """
        answer = self._transport.post(act, RUNS, f"{_run_path(job_id, run_id)}{act}/", deadline_at)
        fields = answer if isinstance(answer, Mapping) else {}
        code, reason = fields.get("exitcode", 0), fields.get("reason", "")
        return ActAnswer(code if isinstance(code, int) else 1, reason if isinstance(reason, str) else "")

    def _listing(
        self,
        endpoint: str,
        scope: str,
        path: str,
        page_size: int,
        deadline_at: float,
        kind: _Kind[R],
        came: Callable[[], None] = _nobody,
        attempts: int = LISTING_ATTEMPTS,
    ) -> R:
        """Return every row of a paged listing, in order, once each, made into what it is as soon as its page is here.

        No order is promised and rows move while files are added, so a listing whose pages disagree is read again;
        one that reads the same twice is taken as it is, whatever its `count` claims.

        Raises:
            Corrupt: it kept changing, or is no listing.
        """
        clock = self._transport.clock
        page_s, ends_at = deadline_at - clock(), clock() + max(LISTING_S, deadline_at - clock())

        def parse(body: bytearray) -> _Page[R] | Corrupt:
            with self._making:
                answer = json.loads(body)
                try:
                    return _Page.from_api(answer, path, kind)
                except Corrupt as error:  # JSON, but no listing: that is not asked for again
                    return error

        def read(number: int) -> _Page[R]:
            page: _Page[R] | Corrupt
            # `next` is not followed but rebuilt: it may name another host, or drop page_size.
            query = f"?page={number}&page_size={page_size}"
            page_at = min(clock() + page_s, ends_at)
            try:
                page = self._transport.json(endpoint, scope, path + query, page_at, parse=parse)
            except NotFound:
                if number == 1:
                    raise
                page = _Page(kind.make([]), None, has_next=False)  # "Invalid page.": past the end
            if isinstance(page, Corrupt):
                raise page
            came()
            return page

        before: R | None = None
        for _ in range(attempts):
            rows, is_consistent = self._read_pages(read, kind)
            if rows is not None:
                unique = kind.unique(rows)
                is_consistent = is_consistent and len(unique) == len(rows)
                rows = unique
            if rows is not None and (is_consistent or rows == before):
                return rows
            log.info("the listing %s changed while it was read", path)
            before = rows
        raise Corrupt(f"the listing {path} changed each of the {attempts} times it was read")

    def _read_pages(self, read: Callable[[int], _Page[R]], kind: _Kind[R]) -> tuple[R | None, bool]:
        """Return the rows of all pages up to the first empty one, and whether the pages agree with each other.

        None in place of rows that cannot be whole: a page came twice, or rows came after an empty page.
        """
        first = read(1)
        pages = [first]
        # The server may serve shorter pages than asked for; `count` may be absent, too high or too low.
        last = -(-first.count // len(first.rows)) if first.count and first.rows else 0
        while pages[-1].has_next and pages[-1].rows and not _has_repeats(pages):
            known = len(pages)
            pages += self._in_parallel(read, range(known + 1, max(known + 1, min(last, known + PAGES_AHEAD)) + 1))
        end = next((number for number, page in enumerate(pages) if not page.rows), len(pages))
        if _has_repeats(pages) or any(page.rows for page in pages[end:]):
            return None, False
        is_full = all(len(page.rows) == len(first.rows) for page in pages[: max(0, end - 1)])
        counts = {page.count for page in pages[: max(1, end)]} - {None}
        rows = kind.join([page.rows for page in pages[:end]])
        return rows, is_full and counts <= {len(rows)}

    def _in_parallel(self, read: Callable[[int], T], numbers: Sequence[int]) -> list[T]:
        if self._pages_pool is None or len(numbers) <= 1:
            return [read(number) for number in numbers]
        flights = [self._pages_pool.submit(read, number) for number in numbers]
        try:
            return [flight.result() for flight in flights]
        finally:
            for flight in flights:
                flight.cancel()


@dataclass(frozen=True, slots=True)
class _Page(Generic[R]):
    rows: R
    count: int | None
    has_next: bool

    @classmethod
    def from_api(cls, answer: object, path: str, kind: _Kind[R]) -> _Page[R]:
        rows = answer.get("results") if isinstance(answer, Mapping) else None
        if not isinstance(answer, Mapping) or not isinstance(rows, list):
            raise Corrupt(f"{path} is not a listing")
        if not all(isinstance(row, dict) for row in rows):
            raise Corrupt(f"the listing {path} has rows that are no objects")
        count = answer.get("count")
        return cls(kind.make(rows), count if isinstance(count, int) and count >= 0 else None, bool(answer.get("next")))


def _has_repeats(pages: Sequence[_Page[R]]) -> bool:
    """Tell whether a page came twice, as from a server that does not look at `page`."""
    rows = [page.rows for page in pages if page.rows]
    return len(set(rows)) < len(rows)


def _segment(text: str) -> str:
    """Quote one path segment.

    Raises:
        Refused: it is a dot segment: requests sends "%2E%2E" as "..", and that is another resource.
    """
    if text in (".", ".."):
        raise Refused(f"nothing can be asked for by the name {text!r}", 0)
    return quote(text, safe="", errors="surrogatepass")


def _tail_path(job_id: str, run_id: str, path: str) -> str:
    return f"{_run_path(job_id, run_id)}tail/{'/'.join(map(_segment, path.split('/')))}"


def _run_path(job_id: str, run_id: str) -> str:
    return f"jobs/{_segment(job_id)}/runs/{_segment(run_id)}/"
