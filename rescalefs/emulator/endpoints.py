"""What each URL of the API answers, from the world as it is; no HTTP library here.

Paths, pages, errors and words: Rescale API documentation (2016, 2023) and Rescale's own clients; where they
are silent, Django REST Framework's defaults.
Threads: any; each handler takes the world's lock for as long as it looks, never while it reads contents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlencode

from rescalefs.emulator import wire
from rescalefs.emulator.content import Content, as_content
from rescalefs.emulator.exchange import Answer, Exchange, error, json_answer, raw_json
from rescalefs.emulator.files import File
from rescalefs.emulator.world import Job, Run, World

# Rows of a page when the client names no number, and the most it gets whatever it names.
DEFAULT_PAGE_SIZE = 10
MAX_PAGE_SIZE = 1000

OCTETS = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

# Answers of the live endpoints when the run is not live: a status, an object with `detail`, or `[]`.
DeadForm = Literal[404, 400, 500, "detail", "empty"]


@dataclass
class Habits:
    """Where the real API's behaviour is unknown or changes: switches, to be set at any time."""

    dead_live: DeadForm = 404
    finished_act: Literal[200, 400, 404] = 400  # stop and snapshot of a finished run.
    tail_honours_range: bool = False
    tail_knows_lines: bool = True  # Else `lines` is ignored like any other parameter.
    honours_job_filters: bool = True  # `state` and `job_status` of the job list.


Handler = Callable[["Api", Exchange, Sequence[str]], Answer]


@dataclass(frozen=True)
class Endpoint:
    """One kind of URL. `pattern` ends in a slash, but for `tail`."""

    name: str
    pattern: re.Pattern[str]
    handler: Handler
    method: str
    scope: str
    may_read: bool  # It may read contents, so it runs on a thread of its own.

    def scope_at(self, prefix: str) -> str:
        """Return the scope of rate limits: under v3 everything shares one (Rescale Interlink, 2025)."""
        return "user" if prefix == "/api/v3" else self.scope


ENDPOINTS: list[Endpoint] = []


def endpoint(
    path: str, *, method: str = "GET", scope: str = "jobs-usage", may_read: bool = False
) -> Callable[[Handler], Handler]:
    """Register a handler for *path* below the version; its parts in braces become arguments."""
    versions = r"(/api/v2|/api)" if method == "POST" else r"(/api/v[23]|/api)"
    pattern = re.sub(r"\{path\}", "(.+)", path)
    pattern = re.sub(r"\{\w+\}", "([^/]+)", pattern)

    def register(handler: Handler) -> Handler:
        compiled = re.compile(f"{versions}/{pattern}", re.DOTALL)
        ENDPOINTS.append(Endpoint(handler.__name__, compiled, handler, method, scope, may_read))
        return handler

    return register


def resolve(path: str) -> tuple[Endpoint, str, list[str]] | None:
    """Return the endpoint of an encoded *path*, its version prefix, and its decoded arguments."""
    for candidate in ENDPOINTS:
        match = candidate.pattern.fullmatch(path)
        if match is not None:
            prefix, *arguments = match.groups()
            return candidate, prefix, [_unquoted(argument) for argument in arguments]
    return None


def _unquoted(text: str) -> str:
    """Decode a part of a path; half of a surrogate pair, of which JSON may tell, is as clients have to write it."""
    try:
        return unquote(text, errors="surrogatepass")
    except UnicodeDecodeError:  # no text at all: the name of nothing
        return unquote(text)


class Missing(Exception):
    """There is no such job, run, or file: 404."""


@dataclass
class Api:
    """A world and its habits, as the handlers see them."""

    world: World
    habits: Habits = field(default_factory=Habits)

    def job(self, id: str) -> Job:
        """Return the job *id*.

        Raises:
            Missing: there is none.
        """
        job = self.world.jobs.get(id)
        if job is None:
            raise Missing
        return job

    def run(self, job_id: str, id: str) -> Run:
        """Return a run that has started.

        Raises:
            Missing: there is none.
        """
        run = self.job(job_id).runs.get(id)
        if run is None or not run.is_visible():
            raise Missing
        return run

    def file(self, id: str) -> tuple[Run, File]:
        """Return an output file and its run.

        Raises:
            Missing: there is none.
        """
        found = self.world.file(id)
        if found is None:
            raise Missing
        return found

    def dead(self) -> Answer:
        """Return what a live endpoint says of a run that is not live."""
        form = self.habits.dead_live
        if form == "empty":
            return json_answer([])
        if form == "detail":
            return json_answer({"detail": "The run is not in progress."})
        return error(form)

    def refusal(self, run: Run) -> Answer:
        """Return what stop and snapshot say of a run that is not live."""
        habit = self.habits.finished_act
        return json_answer({}) if habit == 200 else error(habit, f"Run {run.id} is not in progress.")


@endpoint("users/me/", scope="user")
def users_me(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """Answer who the key belongs to."""
    return json_answer(wire.user(api.world.user))


@endpoint("jobs/")
def jobs(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """List jobs, newest first."""
    with api.world.lock:
        found = sorted(api.world.jobs.values(), key=lambda job: job.created, reverse=True)
        if api.habits.honours_job_filters:
            found = [job for job in found if _passes(job, exchange.query)]
        with_reason = exchange.prefix == "/api/v3"

        def rows(start: int, stop: int) -> list[bytes]:
            return [wire.dump(wire.job_row(job, with_reason=with_reason)) for job in found[start:stop]]

        return _paged(exchange, len(found), rows)


@endpoint("jobs/{job}/")
def job(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """Answer a job's definition."""
    return json_answer(wire.job_detail(api.job(arguments[0])))


@endpoint("jobs/{job}/statuses/")
def statuses(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """List a job's statuses, newest first."""
    history = api.job(arguments[0]).history()[::-1]
    rows = [wire.dump(wire.status_row(status, "+00:00")) for status in history]
    return _paged(exchange, len(rows), lambda start, stop: rows[start:stop])


@endpoint("jobs/{job}/cluster_statuses/")
def cluster_statuses(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """List the cluster's statuses, newest first; 404 before there is a cluster."""
    history = api.job(arguments[0]).cluster_history()[::-1]
    if not history:
        raise Missing
    rows = [wire.dump(wire.status_row(status, "Z")) for status in history]
    return _paged(exchange, len(rows), lambda start, stop: rows[start:stop])


@endpoint("jobs/{job}/stop/", method="POST")
def job_stop(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """Stop all of a job: 202, no body."""
    api.job(arguments[0]).stop()
    answer = raw_json(b"", 202)
    del answer.headers["Content-Type"]
    return answer


@endpoint("jobs/{job}/files/", may_read=True)
def job_files(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """List the output files of all runs."""
    with api.world.lock:
        runs = api.job(arguments[0]).visible_runs()
        found = [file for run in runs for file in run.listed_files()]
    return _files(api, exchange, found)


@endpoint("jobs/{job}/runs/", scope="runs-usage")
def runs(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """List the runs that have started."""
    with api.world.lock:
        found = api.job(arguments[0]).visible_runs()
        return _paged(
            exchange,
            len(found),
            lambda start, stop: [wire.dump(wire.run_row(run)) for run in found[start:stop]],
        )


@endpoint("jobs/{job}/runs/{run}/", scope="runs-usage")
def run(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """Answer one run."""
    with api.world.lock:
        return json_answer(wire.run_row(api.run(*arguments)))


@endpoint("jobs/{job}/runs/{run}/files/", may_read=True)
def run_files(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """List the output files of one run."""
    with api.world.lock:
        found = list(api.run(*arguments).listed_files())
    return _files(api, exchange, found)


@endpoint("jobs/{job}/runs/{run}/directory-contents/", scope="runs-usage")
def directory_contents(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """List a working directory: a bare array of paths, not paged."""
    with api.world.lock:
        found = api.run(*arguments)
        if not found.is_live():
            return api.dead()
        return json_answer([wire.live_row(found, live, exchange.prefix) for live in found.live_files()])


@endpoint("jobs/{job}/runs/{run}/tail/{path}", scope="runs-usage", may_read=True)
def tail(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """Answer all bytes of a live file, chunked; with `lines`, its last lines as JSON."""
    *ids, path = arguments
    with api.world.lock:
        found = api.run(*ids)
        if not found.is_live():
            return api.dead()
        live = found.live_file(path) or found.live_file(path.removesuffix("/"))
        if live is None:
            raise Missing
        data = live.read()
    lines = exchange.query.get("lines")
    if lines is not None and api.habits.tail_knows_lines:
        if not lines.isdecimal():
            return json_answer({"lines": ["A valid integer is required."]}, 400)
        return json_answer(wire.tail_lines(found, live.path, data, int(lines)))
    return _ranged(as_content(data), exchange.range if api.habits.tail_honours_range else None, chunked=True)


@endpoint("jobs/{job}/runs/{run}/stop/", method="POST", scope="runs-usage")
def stop(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """Stop a run; it ends a little later."""
    found = api.run(*arguments)
    return json_answer({}) if found.stop() else api.refusal(found)


@endpoint("jobs/{job}/runs/{run}/snapshot/", method="POST", scope="runs-usage", may_read=True)
def snapshot(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """Begin a snapshot; the archive appears among the outputs later."""
    found = api.run(*arguments)
    answer = found.snapshot()
    return api.refusal(found) if answer is None else json_answer(wire.snapshot(answer))


@endpoint("files/{file}/", scope="file-access", may_read=True)
def file(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """Answer one output file, as listings have it."""
    found, output = api.file(arguments[0])
    return raw_json(wire.file_row(found, output, exchange.api, api.world.clock.now()))


@endpoint("files/{file}/contents/", scope="file-access")
def contents(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """Answer the bytes, or a single range of them."""
    _, output = api.file(arguments[0])
    if not output.has_contents(api.world.clock.now()):
        raise Missing
    return _ranged(output.content, exchange.range)


@endpoint("files/{file}/lines/", scope="file-access", may_read=True)
def lines(api: Api, exchange: Exchange, arguments: Sequence[str]) -> Answer:
    """Answer all lines of a text file, newlines kept."""
    _, output = api.file(arguments[0])
    if not output.has_contents(api.world.clock.now()):
        raise Missing
    data = output.content.read(0, output.content.size)
    return json_answer({"lines": [line.decode(errors="replace") for line in data.splitlines(keepends=True)]})


def _passes(job: Job, query: dict[str, str]) -> bool:
    history = job.history()
    status = history[-1].status if history else ""
    state, wanted = query.get("state"), query.get("job_status")
    if state is not None and (status == "Completed") != (state == "completed"):
        return False
    return wanted is None or status.upper().replace(" ", "_") == wanted


def _files(api: Api, exchange: Exchange, found: list[File]) -> Answer:
    search = exchange.query.get("search", "")
    if search:
        found = [file for file in found if search in (file.relative_path or file.name)]
    now = api.world.clock.now()

    def rows(start: int, stop: int) -> list[bytes]:
        # The world's lock is not held: the first look at a file reads it for its checksums.
        return [wire.file_row(api.world.files[file.id][0], file, exchange.api, now) for file in found[start:stop]]

    return _paged(exchange, len(found), rows)


def _paged(exchange: Exchange, count: int, rows: Callable[[int, int], list[bytes]]) -> Answer:
    """Return the page that was asked for; *rows* writes those from one index up to another.

    `next` and `previous` are absolute and keep the query; a page beyond the end is 404 "Invalid page.".
    """
    query = exchange.query
    number, size = query.get("page", "1"), query.get("page_size", "")
    size_rows = min(int(size), MAX_PAGE_SIZE) if size.isdecimal() and int(size) else DEFAULT_PAGE_SIZE
    promised = count + exchange.count_plus
    pages = max(1, -(-promised // size_rows))
    if not number.isdecimal() or not 1 <= int(number) <= pages:
        return error(404, "Invalid page.")
    page = int(number)
    start = (page - 1) * size_rows + (exchange.shift_rows if page > 1 else 0)

    def url(other: int) -> str | None:
        if not 1 <= other <= pages:
            return None
        kept = {name: value for name, value in query.items() if name != "page"}
        if exchange.drop_page_size:
            kept.pop("page_size", None)
        if other > 1:
            kept["page"] = str(other)
        return f"{exchange.origin}{exchange.path}" + (f"?{urlencode(kept)}" if kept else "")

    written = rows(max(0, start), max(0, start + size_rows))
    return raw_json(wire.page(promised, url(page + 1), url(page - 1), written))


def _ranged(content: Content, wanted: str | None, *, chunked: bool = False) -> Answer:
    """Return all of *content*, or the single range *wanted*; anything else is ignored (RFC 9110, 14.2)."""
    answer = Answer(200, content, {"Content-Type": OCTETS}, chunked=chunked)
    match = _RANGE.fullmatch(wanted or "")
    if match is None or match.groups() == ("", ""):
        return answer
    first, last = match.groups()
    size = content.size
    if first == "":
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < start:
            return answer
    if start >= stop:
        return error(416, "Range not satisfiable.", Content_Range=f"bytes */{size}")
    answer.status, answer.start, answer.stop = 206, start, stop
    answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return answer
