"""The reference model: what a mount must show, as plain facts with their times, stated apart from the program.

    model = Model()
    job = model.jobs["AbCdE"] = Job("AbCdE", "wing", since=5.0)
    run = job.runs["1"] = Run("1", started=5.0)
    run.lives["log"] = Live("log", [(6.0, b"Time = 0")])
    model.views(job, run, 7.0, 7.0)     # the trees that may be seen between these moments

Everything is worked out anew from the facts each time, so that there is one statement of what is right.
Of a mount that may be late by so much, it tells all that it may show: what was true at one moment of a window.
It imports nothing of the program. Times and lifetimes are seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, pairwise

NEVER = float("inf")
# How late a mount may be, after which it must be exact.
JOBS_S = 30.0  # the list of jobs; that there is no such job
JOB_S = 3600.0  # that there is one
RUNS_S = 10.0  # the runs of a job that computes, and where these stand
LIVE_S = 10.0  # the names in a live run
DEAD_S = 20.0  # how much older they may be where the live view fails
SETTLING_S = 15.0  # the outputs of a run that has just ended
CONFIRMED_S = 86_400.0  # the object of a run whose outputs are complete
GIVEN_UP_S = 86_400.0  # outputs that are not complete then never will be
LOOK_S = 2.0  # a live file
FAILING_S = 66.0  # a live file of which looks have failed
CONTROLS = ("stop", "snapshot")


@dataclass(eq=False)
class Output:
    """One row of a run's listing; `added` is from when on the run counts it."""

    id: str
    path: str
    data: bytes
    date: float
    added: float = 0.0
    listed: float = 0.0
    uploaded: float = 0.0
    deleted: float = NEVER
    has_checksum: bool = True

    def is_listed(self, at: float) -> bool:
        """Tell whether listings have it."""
        return self.listed <= at < self.deleted

    def date_at(self, at: float) -> float:
        """Return the date that its row has."""
        return self.date if self.uploaded <= at else self.listed


@dataclass(eq=False)
class Live:
    """A file that a run writes: what it holds from when on, None where it is not there."""

    path: str
    versions: list[tuple[float, bytes | None]]

    def at(self, at: float) -> bytes | None:
        """Return what it holds at a moment."""
        return next((data for since, data in reversed(self.versions) if since <= at), None)

    def is_removed(self, first: float, last: float) -> bool:
        """Tell whether it was taken away between two moments, or has been before."""
        return self.at(last) is None or any(first < since <= last and data is None for since, data in self.versions)

    def between(self, first: float, last: float) -> list[bytes | None]:
        """Return all that it holds between two moments."""
        return [self.at(first), *(data for since, data in self.versions if first < since <= last)]


Entity = Output | Live | str
Tree = dict[str, Entity]


@dataclass(eq=False)
class Following:
    """From when until when somebody had a live file open."""

    path: str
    since: float
    until: float = NEVER


@dataclass(eq=False)
class Run:
    """One run."""

    id: str
    started: float
    completed: float = NEVER
    outputs: list[Output] = field(default_factory=list)
    lives: dict[str, Live] = field(default_factory=dict)
    followed: list[Following] = field(default_factory=list)

    def is_live(self, at: float) -> bool:
        """Tell whether it computes."""
        return self.started <= at < self.completed

    def rows(self, at: float) -> tuple[Output, ...]:
        """Return what its listing has."""
        return tuple(output for output in self.outputs if output.is_listed(at))

    def names(self, at: float) -> frozenset[str]:
        """Return the files of its working directory."""
        return frozenset(p for p, live in self.lives.items() if self.is_live(at) and live.at(at) is not None)

    def total(self, at: float) -> int:
        """Return how many outputs its object promises."""
        return sum(output.added <= at for output in self.outputs)

    def is_complete(self, at: float) -> bool:
        """Tell whether all outputs are there, by a count that was true since the end."""
        rows = self.rows(at)
        totals = {self.total(moment) for moment in self.moments(self.completed, at)}
        return all(row.uploaded <= at for row in rows) and len(rows) in totals

    def moments(self, first: float, last: float) -> list[float]:
        """Return *first* and every moment up to *last* at which something changes."""
        times = {self.started, self.completed}
        for output in self.outputs:
            times |= {output.added, output.listed, output.uploaded, output.deleted}
        for live in self.lives.values():
            times |= {since for since, _ in live.versions}
        return [first, *sorted(time for time in times if first < time <= last)]

    def followed_between(self, first: float, last: float) -> tuple[set[str], set[str]]:
        """Return the live files that somebody had open all the time, and those at some time."""
        always = {each.path for each in self.followed if each.since <= first and each.until > last}
        return always, {each.path for each in self.followed if each.since <= last and each.until >= first}


@dataclass(eq=False)
class Job:
    """One job; it computes until as many runs as it expects have ended."""

    id: str
    name: str
    since: float
    expected: int = 1
    until: float = NEVER
    runs: dict[str, Run] = field(default_factory=dict)

    def is_over(self, at: float) -> bool:
        """Tell whether no run of it will ever compute again."""
        return len(self.runs) >= self.expected and all(run.completed <= at for run in self.runs.values())


@dataclass
class Model:
    """Jobs, and since when a mount cannot know anything older; `slack_s` is what the kernel adds to that."""

    jobs: dict[str, Job] = field(default_factory=dict)
    slack_s: float = 0.0
    restarted: float = 0.0
    troubled: float = -NEVER  # when something failed last
    refreshed: dict[tuple[str, ...], float] = field(default_factory=dict)

    def fresh(self, *ids: str) -> float:
        """Return when the mount was last told to forget what it knows of these."""
        levels = [ids[:length] for length in range(len(ids) + 1)]
        return max(self.refreshed.get(level, 0.0) for level in levels)

    def fresh_runs(self, job: Job) -> float:
        """Return the same for the runs of a job, which a refresh of one of them asks for, too."""
        below = [self.refreshed.get((job.id, run.id), 0.0) for run in job.runs.values()]
        return max(self.fresh(job.id), *below) if below else self.fresh(job.id)

    # ---- names ----

    def job_sets(self, first: float, last: float) -> set[frozenset[str]]:
        """Return what a listing of all jobs may be."""
        since = max(self.fresh(), self.restarted, first - JOBS_S)
        times = {job.since for job in self.jobs.values()} | {job.until for job in self.jobs.values()}
        moments = [since, *(time for time in times if since < time <= last)]
        return {frozenset(job.id for job in self.jobs.values() if job.since <= at < job.until) for at in moments}

    def is_gone(self, job: Job, first: float) -> bool:
        """Tell whether a deleted job must have vanished."""
        return job.until < max(self.fresh(), self.restarted, first - JOB_S)

    def run_sets(self, job: Job, first: float, last: float) -> set[frozenset[str]]:
        """Return what a listing of a job's runs may be."""
        since = max(self.fresh_runs(job), first - RUNS_S)
        starts = [run.started for run in job.runs.values()]
        moments = [since, *(time for time in starts if since < time <= last)]
        return {frozenset(run.id for run in job.runs.values() if run.started <= at) for at in moments}

    def states(self, job: Job, run: Run, first: float, last: float) -> set[str]:
        """Return what a run's state may be said to be."""
        since = max(self.fresh_runs(job), first - RUNS_S)
        states = {"live"} if run.started <= last and run.completed > since else set()
        if run.completed <= last:
            moments = run.moments(max(run.completed, self.fresh(job.id, run.id)), last)
            is_old = last - run.completed > GIVEN_UP_S
            is_complete = is_old or any(run.is_complete(at) for at in moments)
            states |= {"settling", "final"} if is_complete else {"settling"}
        return states

    def views(self, job: Job, run: Run, first: float, last: float) -> list[Tree]:
        """Return the trees that may be seen of a run from moment *first* to *last*."""
        found: dict[tuple[object, ...], Tree] = {}
        for is_live, rows, names in self._views(job, run, first, last):
            key = is_live, tuple((row.id, row.date_at(at)) for row, at in rows), names
            if key not in found:
                found[key] = _tree(is_live, rows, names, run)
        return list(found.values())

    def _views(
        self, job: Job, run: Run, first: float, last: float
    ) -> Iterator[tuple[bool, tuple[tuple[Output, float], ...], frozenset[str]]]:
        fresh = self.fresh(job.id, run.id)
        if run.started <= last and run.completed > max(run.started, self.fresh_runs(job), first - RUNS_S):
            since = max(fresh, first - LIVE_S)
            moments = run.moments(since, last)
            named = {run.names(at) for at in moments if run.is_live(at)}
            is_dead = run.completed <= last or self.troubled > first - LIVE_S - DEAD_S or frozenset() in named
            if is_dead:
                named |= {run.names(at) for at in run.moments(first - LIVE_S - DEAD_S, last)}
                named |= set(_between(*run.followed_between(since, last)))
            for at in moments:
                for names in named:
                    yield True, tuple((row, at) for row in run.rows(at)), names
        if run.completed <= last:
            moments = run.moments(max(run.completed, run.started, fresh), last)
            noticed_s = CONFIRMED_S if job.is_over(last) else RUNS_S
            for at, until in zip(moments, [*moments[1:], NEVER], strict=True):
                is_recent = until > first - SETTLING_S
                is_noticed = any(at < output.added < first - noticed_s for output in run.outputs)
                is_given_up = min(until, last) - run.completed > GIVEN_UP_S
                is_final = run.is_complete(at) or is_given_up
                if not is_recent and (is_noticed or not is_final):
                    continue
                rows = tuple((row, at) for row in run.rows(at))
                must, may = run.followed_between(max(fresh, first - SETTLING_S), last)
                must -= {output.path for output in run.outputs if output.uploaded <= last}
                for names in _between(set() if is_final else must, may):
                    yield False, rows, names


def _between(least: Iterable[str], most: Iterable[str]) -> Iterator[frozenset[str]]:
    least = set(least)
    optional = sorted(set(most) - least)
    for count in range(len(optional) + 1):
        for chosen in combinations(optional, count):
            yield frozenset(least) | frozenset(chosen)


def _tree(is_live: bool, rows: Iterable[tuple[Output, float]], names: Iterable[str], run: Run) -> Tree:
    ordered = [row for row, _ in sorted(rows, key=lambda row: (-_microseconds(row[0].date_at(row[1])), row[0].id))]
    there = {row.path for row in ordered}
    lives = [live for path, live in run.lives.items() if path in names and path not in there]
    entities: list[Output | Live] = [*ordered, *lives]
    items = [(e.id if isinstance(e, Output) else live_mark(e.path), e.path) for e in entities]
    tree: Tree = dict(zip(arranged(items), entities, strict=True))
    if is_live:
        taken = {path.partition("/")[0] for path in tree}
        tree.update({name: name for name in CONTROLS if name not in taken})
    return tree


def _microseconds(date: float) -> int:
    """Return a date as the API tells it: two that differ by less are one."""
    return round(date * 1e6)


# ---- live files ----


def live_mark(path: str) -> str:
    """Return what stands for the file id that a live file does not have."""
    return hashlib.blake2b(path.encode(errors="surrogatepass"), digest_size=4).hexdigest()


@dataclass(eq=False)
class Version:
    """What a file that is followed holds, from when on and until when."""

    data: bytes
    since: float
    until: float


def versions(run: Run, path: str, last: float) -> list[Version]:
    """Return all that somebody who follows a file may have seen up to *last*: the live one, then the outputs."""
    known = list(run.lives[path].versions) if path in run.lives else []
    ends = [since for since, _ in known[1:]] + [NEVER]
    found = [
        Version(data, since, end)
        for (since, data), end in zip(known, ends, strict=True)
        if data is not None and since <= last
    ]
    found += [
        Version(output.data, output.uploaded, NEVER)
        for output in run.outputs
        if output.path == path and output.uploaded <= last
    ]
    return found


def has_only_grown(run: Run, path: str, since: float, last: float) -> bool:
    """Tell whether nothing but appending has happened to a followed file from what was true at *since* on."""
    live = run.lives.get(path)
    seen = live.between(since, last) if live is not None else []
    if seen and seen[0] is None:  # it was not there yet
        del seen[0]
    seen += [version.data for version in versions(run, path, last) if version.until == NEVER]
    return all(a is not None and b is not None and b.startswith(a) for a, b in pairwise(seen))


# ---- names ----


def shown_paths(rows: list[tuple[str, str, float]]) -> dict[str, str]:
    """Return the shown path of each file, for rows of (file id, path, date)."""
    ordered = sorted(rows, key=lambda row: (-row[2], row[0]))
    return dict(zip((id for id, _, _ in ordered), arranged([row[:2] for row in ordered]), strict=True))


def arranged(items: list[tuple[str, str]]) -> list[str]:
    """Return the shown path of each file, for (file id, path) in the order in which they have a right to a name."""
    directories = {shown_directory(path) for _, path in items}
    above = {"/".join(d.split("/")[:depth]) for d in directories for depth in range(1, d.count("/") + 2)}
    taken = {path for path in above if path}
    shown: dict[int, str] = {}
    late: list[tuple[int, str]] = []
    for number, (id, path) in enumerate(items):
        directory, name = shown_directory(path), cut(escaped(path.split("/")[-1]), id)
        place = f"{directory}/{name}" if directory else name
        if place in taken or place == ".rescale":
            late.append((number, place))
        else:
            shown[number] = place
            taken.add(place)
    for number, place in late:
        directory, _, name = place.rpartition("/")
        while place in taken or place == ".rescale":
            name = marked(name, items[number][0])
            place = f"{directory}/{name}" if directory else name
        shown[number] = place
        taken.add(place)
    return [shown[number] for number in range(len(items))]


def shown_directory(path: str) -> str:
    """Return the directory of a file as it is shown; long names are not expected here."""
    names = [escaped(part) for part in path.split("/")[:-1]]
    if names and names[0] == ".rescale":
        names[0] = "%2Erescale"
    return "/".join(names)


def shown_job(name: str, id: str) -> str:
    """Return the name under which a job is linked."""
    if not name:
        return f"~{id}"
    return marked(escaped_characters(name, "/") if "/" in name else escaped(name), id)


def escaped(segment: str) -> str:
    """Return one segment as the table in the documentation has it."""
    if segment in ("", ".", ".."):
        return {"": "%2F", ".": "%2E", "..": "%2E%2E"}[segment]
    hexadecimal = "0123456789abcdefABCDEF"
    looks = any(
        segment[i] == "%" and len(segment) > i + 2 and segment[i + 1] in hexadecimal and segment[i + 2] in hexadecimal
        for i in range(len(segment))
    )
    cannot = [c for c in segment if c == "\0" or "\ud800" <= c <= "\udfff"]
    return segment if not looks and not cannot else escaped_characters(segment, "")


def escaped_characters(text: str, more: str) -> str:
    """Return a text with `%` and all that cannot stand in a name, *more* among it, as bytes."""
    shown = ""
    for c in text:
        if c in "%\0" or c in more or "\ud800" <= c <= "\udfff":
            shown += "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
        else:
            shown += c
    return shown


def cut(name: str, id: str) -> str:
    """Return a name that fits into 255 bytes."""
    return marked(name, id) if len(name.encode()) > 255 else name


def marked(name: str, id: str) -> str:
    """Return `name~id`, as much of the name as fits."""
    while len(f"{name}~{id}".encode()) > 255:
        name = name[:-1]
    return f"{name}~{id}"
