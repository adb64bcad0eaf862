"""What jobs, runs and files there are: listings kept in memory, each for as long as its state allows.

A run is `pending` (not started), `live` (computing), `settling` (ended, its outputs still arriving) or `final`.
A final run cannot change, so its files are listed once: they stay as long as the run's object is the same, which is
looked at once a day, and are on disk where memory has no room for them. Other listings live seconds, and only while
somebody looks: nothing here asks by itself. Without a network, what is on disk is shown.

Callers wait no longer than the loader lets them; the requests run on the loader's threads.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rescalefs.client import Client
from rescalefs.errors import NotFound, Offline, RescaleError, Unseen
from rescalefs.finality import GIVEN_UP_AFTER_S, ended_for_s, is_final, is_long_over
from rescalefs.kept import Kept
from rescalefs.known import FOR_EVER_S, Answer, Known, Lifetimes
from rescalefs.listings import KeptTree, Listings, is_same
from rescalefs.live_names import LiveNames
from rescalefs.loader import Loader
from rescalefs.models import TERMINAL_STATUSES, Job, RemoteFile, Run, Status
from rescalefs.packed import PackedFiles, PackedTree, pack, same_files
from rescalefs.rows import FileRows
from rescalefs.shown import Changed, Shown
from rescalefs.sweeps import Sweeps
from rescalefs.system import give_back_memory
from rescalefs.timing import Clock
from rescalefs.tree import Tree, build_tree

log = logging.getLogger(__name__)

_UNPACKED_BYTES = 700  # of a file as objects, about
# A listing of so many files took memory that is worth giving back: 10 MB for a moment.
_MANY_FILES = 20_000


class RunState(enum.Enum):
    """Where a run stands in its life."""

    PENDING = "pending"
    LIVE = "live"
    SETTLING = "settling"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as it was last seen: its object, its state and the tree of its files."""

    job_id: str
    run: Run
    state: RunState
    root: Tree
    files: Collection[RemoteFile]
    same_since: float
    steady_at: float = float("-inf")  # from when on nobody remembers what was shown in its place


class Catalog:
    """Answers questions about jobs, runs and files. Threads: any.

    *followed* tells the paths of a run's live files that somebody has open: these stay when the run ends.
    *seen* is told of each new view of a run, *changed* of one that shows otherwise what others may remember (`shown`).

    Every method may raise what `Client` raises, and DeadlineExceeded when the answer takes too long.
    """

    def __init__(
        self,
        client: Client,
        loader: Loader,
        *,
        deadline_s: float,
        followed: Callable[[str, str], Iterable[str]] = lambda _job_id, _run_id: (),
        seen: Callable[[RunView], None] = lambda _view: None,
        changed: Changed = lambda _job_id, _run_id, _replaced: None,
        listings: Listings | None = None,
        sweeps: Sweeps | None = None,
        lifetimes: Lifetimes | None = None,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        self._client = client
        self._loader = loader
        self._listings = listings or Listings(Kept(None), "")
        self._sweeps = sweeps
        self._deadline_s = deadline_s
        self._followed = followed
        self._seen = seen
        self._shown = Shown(changed, clock)
        self._lifetimes = lifetimes or Lifetimes()
        self._clock = clock
        self._wall_clock = wall_clock
        self._known = Known(clock)
        self._live_names = LiveNames(client, followed, self._lifetimes, deadline_s=deadline_s, clock=clock)
        self._lock = threading.Lock()  # guards the field below; nothing else is done under it
        self._last_views: dict[tuple[str, str], RunView] = {}

    # ---- jobs ----

    def jobs(self) -> Mapping[str, Job]:
        """Return all jobs by id, as new as `Lifetimes.jobs_s`."""
        jobs: Mapping[str, Job] = self._ask(("jobs",), self._list_jobs, "the list of jobs")
        return jobs

    def job(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            NotFound: there is none; remembered for a while.
        """
        key = ("job", job_id)
        if self._known.get(key) is None:
            jobs = self.jobs()  # one list answers for all ids, and has the dates that the detail lacks
            if job_id in jobs:
                return jobs[job_id]
        job: Job = self._ask(key, lambda: self._find_job(job_id), f"job {job_id}")
        return job

    def status(self, job_id: str) -> str:
        """Return a job's status as the API words it, "" for one that was never submitted."""
        job = self.job(job_id)
        if job.is_over and job.status is not None:
            return job.status
        status: str = self._ask(("status", job_id), lambda: self._find_status(job_id), f"the status of job {job_id}")
        return status

    def newest_status(self, job_id: str) -> Status | None:
        """Return a job's newest status with its reason, asked afresh; None if it never had one."""
        what = f"the status of job {job_id}"
        key = ("newest status", job_id)
        return self._loader.load(key, lambda: self._client.newest_status(job_id, self._deadline()), what)

    def is_over(self, job_id: str) -> bool:
        """True once the job will never run again."""
        return self.status(job_id) in TERMINAL_STATUSES

    def _list_jobs(self) -> Answer:
        refreshes = self._known.refreshes
        try:
            jobs = {job.id: job for job in self._client.jobs(self._deadline(), self._loader.part_came())}
        except Offline:
            kept = self._listings.jobs()
            if kept is None:
                raise
            return Answer(kept, self._lifetimes.offline_s)
        self._listings.keep_jobs(jobs.values())
        for job in jobs.values():
            self._learn_job(job, refreshes)
        return Answer(jobs, self._lifetimes.jobs_s)

    def _find_job(self, job_id: str) -> Answer:
        refreshes = self._known.refreshes
        try:
            job = self._client.job(job_id, self._deadline())
        except NotFound as missing:
            return Answer(missing, self._lifetimes.miss_s)
        self._learn_job(job, refreshes)
        return Answer(job, self._lifetimes.job_s)

    def _learn_job(self, job: Job, refreshes: int) -> None:
        self._known.keep(("job", job.id), Answer(job, self._lifetimes.job_s), refreshes)
        if job.status is not None:
            self._known.keep(("status", job.id), Answer(job.status, self._lifetimes.status_s), refreshes)

    def _find_status(self, job_id: str) -> Answer:
        return Answer(self._client.status(job_id, self._deadline()), self._lifetimes.status_s)

    # ---- runs ----

    def runs(self, job_id: str) -> Mapping[str, Run]:
        """Return the runs of a job by id, in their order."""
        key = ("runs", job_id)
        is_over = False
        if self._known.get(key) is None:
            with contextlib.suppress(Offline):
                is_over = self.is_over(job_id)
        runs: Mapping[str, Run] = self._ask(key, lambda: self._list_runs(job_id, is_over), f"the runs of job {job_id}")
        return runs

    def run(self, job_id: str, run_id: str) -> Run:
        """Return one run.

        Raises:
            NotFound: the job has none of that id.
        """
        runs = self.runs(job_id)
        if run_id not in runs:
            raise NotFound(f"job {job_id} has no run {run_id}")
        return runs[run_id]

    def state(self, job_id: str, run_id: str) -> RunState:
        """Return where a run stands."""
        run = self.run(job_id, run_id)
        state = self._state(job_id, run)
        return self.view(job_id, run_id).state if state is RunState.SETTLING else state

    def state_as_known(self, job_id: str, run: Run) -> RunState:
        """Return where a run stands as far as is known without its files; one that ended an hour ago is final."""
        known = self._known.get(("view", job_id, run.id))
        if known is not None and known.value.run.completed_ns == run.completed_ns:
            view: RunView = known.value
            return view.state
        return RunState.FINAL if is_long_over(run, self._wall_clock()) else self._state(job_id, run)

    def look_again(self, job_id: str, run_id: str) -> RunState:
        """Forget what is known of a job and ask the API: the look before an act."""
        self.refresh(job_id)
        return self._state(job_id, self.run(job_id, run_id))

    def _list_runs(self, job_id: str, is_over: bool) -> Answer:
        kept = self._listings.runs(job_id)
        if kept is not None and kept.is_trusted:
            left_s = kept.confirmed_at_s + self._runs_lifetime_s(kept.runs, is_over) - self._wall_clock()
            if is_over and kept.is_over and left_s > 0:  # what was seen before the job was over may lack runs
                return Answer(kept.runs, left_s)
        asked_at_s = self._wall_clock()
        try:
            found = self._client.runs(job_id, self._deadline(), self._loader.part_came())
        except Offline:
            if kept is None:
                raise
            return Answer(kept.runs, self._lifetimes.offline_s)
        runs = {run.id: run for run in sorted(found, key=_order)}
        self._listings.keep_runs(job_id, runs.values(), asked_at_s, is_over=is_over)
        return Answer(runs, self._runs_lifetime_s(runs, is_over))

    def _runs_lifetime_s(self, runs: Mapping[str, Run], is_over: bool) -> float:
        ended_s = [ended_for_s(run, self._wall_clock()) for run in runs.values()]
        if not is_over or None in ended_s:
            return self._lifetimes.status_s
        youngest_s = min((each for each in ended_s if each is not None), default=math.inf)
        return self._lifetimes.runs_final_s if youngest_s > GIVEN_UP_AFTER_S else self._lifetimes.runs_over_s

    def _state(self, job_id: str, run: Run) -> RunState:
        """Return the state as far as the run object tells; whether a run that has ended is final, its files tell."""
        if run.completed_ns is not None:
            return RunState.SETTLING
        if run.started_ns is None:
            return RunState.PENDING
        # A job that was killed may leave a run without an end.
        return RunState.SETTLING if self.is_over(job_id) else RunState.LIVE

    # ---- files ----

    def view(self, job_id: str, run_id: str) -> RunView:
        """Return a run with the tree of its files."""
        run = self.run(job_id, run_id)
        key = ("view", job_id, run_id)
        known = self._known.get(key)
        if known is not None and not _is_of(known.value, run):
            self._known.drop(key)
            known = None
        if known is not None:
            view: RunView = known.value
            return view
        state = self._state(job_id, run)
        what = f"the files of run {run_id} of job {job_id}"

        def ask() -> RunView:
            view: RunView = self._ask(key, lambda: self._show(self._find_files(job_id, run, state)), what)
            return view

        try:
            return ask()
        except Unseen:  # it may have ended since it was looked at
            self._known.drop(("runs", job_id))
            self._known.drop(("status", job_id))
            is_live = self._state(job_id, self.run(job_id, run_id)) is RunState.LIVE
            return ask() if is_live else self.view(job_id, run_id)

    def is_steady(self, view: RunView) -> bool:
        """Tell whether a view is final, and nobody can remember that the run showed anything else in this mount."""
        return view.state is RunState.FINAL and self._clock() >= view.steady_at

    def _show(self, answer: Answer) -> Answer:
        """Compare a view with what was shown of the run before; return it with what comes of that."""
        view: RunView = answer.value
        finals = view.files if view.state is RunState.FINAL else None
        steady_at = self._shown.show((view.job_id, view.run.id), view.root, finals)
        return answer._replace(value=replace(view, steady_at=steady_at))

    def is_current(self, view: RunView) -> bool:
        """Tell, asking nothing, whether a look at this final run would give this very view."""
        runs = self._known.get(("runs", view.job_id))
        known = self._known.get(("view", view.job_id, view.run.id))
        is_same_run = runs is not None and runs.value.get(view.run.id) == view.run
        return is_same_run and known is not None and known.value is view

    def _find_files(self, job_id: str, run: Run, state: RunState) -> Answer:
        """Return a run's files: a final one's from disk if they are there, and trusted or all there is."""
        if state is not RunState.LIVE:
            self._live_names.forget(job_id, run.id)
        kept = self._listings.tree(job_id, run) if run.completed_ns is not None else None
        if kept is not None and kept.is_trusted:
            return Answer(_packed(job_id, run, kept.tree), FOR_EVER_S, len(kept.tree.data))
        try:
            return self._swept(job_id, run) or self._list_files(job_id, run, state, kept)
        except Offline:
            if kept is None:
                raise
            return Answer(_packed(job_id, run, kept.tree), self._lifetimes.offline_s)

    def _list_files(self, job_id: str, run: Run, state: RunState, kept: KeptTree | None) -> Answer:
        lifetimes, key = self._lifetimes, (job_id, run.id)
        asked_at_s = self._wall_clock()
        with self._lock:
            before = self._last_views.get(key)
        live_paths: list[str] = []
        if state is RunState.LIVE:  # before the outputs: what is uploaded meanwhile is in one of them at least
            live_paths = self._live_names.paths(job_id, run.id)
        elif state is RunState.SETTLING:  # a file must not vanish under who follows it, until its upload
            live_paths = list(self._followed(job_id, run.id))
        came = self._loader.part_came()
        tree, files = _arranged(self._client.files(job_id, run.id, self._deadline(), came), came)
        is_same = before is not None and before.state is not RunState.LIVE and same_files(before.files, files)
        same_since = before.same_since if before is not None and is_same else self._clock()
        same_for_s = self._clock() - same_since if is_same else None
        was_final = kept is not None and same_files(PackedFiles(kept.tree), files)  # and is as it was then
        if state is RunState.SETTLING and (was_final or is_final(run, files, same_for_s, self._wall_clock())):
            state = RunState.FINAL
        elif live_paths:
            tree = build_tree(files, live_paths)
        view = RunView(job_id, run, state, tree, files, same_since)
        self._seen(view)
        if state is RunState.FINAL:
            with self._lock:
                self._last_views.pop(key, None)  # nothing will be compared with it any more
            return self._finish(view, asked_at_s)
        with self._lock:
            self._last_views[key] = view
        return Answer(view, lifetimes.settling_s if state is RunState.SETTLING else lifetimes.live_s)

    def _swept(self, job_id: str, run: Run) -> Answer | None:
        """Return a run's files from a listing of its whole job, where that is worth its requests and tells them."""
        runs, now_s, refreshes = self._known.get(("runs", job_id)), self._wall_clock(), self._known.refreshes
        if self._sweeps is None or runs is None or not is_long_over(run, now_s):
            return None
        ended = [each for each in runs.value.values() if is_long_over(each, now_s)]

        def view_of(each: Run) -> RunView | None:
            known = self._known.get(("view", job_id, each.id))
            return known.value if known is not None and _is_of(known.value, each) else None

        def is_missing(each: Run) -> bool:
            kept = self._listings.tree(job_id, each) if view_of(each) is None else None
            return view_of(each) is None and (kept is None or not kept.is_trusted)

        came = self._loader.part_came()

        def take(found: Mapping[str, FileRows]) -> None:
            new = [each for each in ended if view_of(each) is None and not any(self._followed(job_id, each.id))]
            for each in new:
                rows = found.get(each.id)
                if rows is not None and is_final(each, rows, None, now_s):
                    view = RunView(job_id, each, RunState.FINAL, *_arranged(rows, came), self._clock())
                    self._seen(view)
                    answer = self._show(self._finish(view, now_s))
                    self._known.keep(("view", job_id, each.id), answer, refreshes)

        before = self._sweeps.looked_into(job_id, run, ended, is_missing)
        if not before:
            return None
        listed = {each.id: view.files for each in ended if each.id in before and (view := view_of(each)) is not None}
        self._sweeps.sweep(job_id, listed, ended, take)
        return self._known.get(("view", job_id, run.id))

    def _finish(self, view: RunView, asked_at_s: float) -> Answer:
        """Return the files of a run that will not change, kept on disk; they were asked for at that time."""
        if not isinstance(view.files, PackedFiles):
            return Answer(view, FOR_EVER_S, len(view.files) * _UNPACKED_BYTES)
        data = view.files.tree.data
        self._listings.keep_tree(view.job_id, view.run, data, asked_at_s)
        if len(view.files) >= _MANY_FILES:
            give_back_memory()
        return Answer(view, FOR_EVER_S, len(data))

    # ---- keeping ----

    def refresh(self, job_id: str | None = None, run_id: str | None = None) -> None:
        """Forget what is known of everything, of one job, or of one run and its files, on disk too."""
        self._listings.refresh(job_id, run_id)
        self._known.refresh(job_id, run_id)
        if self._sweeps is not None:
            self._sweeps.forget(job_id)

    def _ask(self, key: tuple[str, ...], load: Callable[[], Answer], what: str) -> Any:
        known = self._known.get(key)
        if known is None:

            def fill() -> Answer:
                found = self._known.get(key)  # another answer may have come since the look above
                if found is not None:
                    return found
                refreshes = self._known.refreshes
                found = load()
                self._known.keep(key, found, refreshes)
                return found

            # What was asked before a refresh does not answer what is asked after it.
            known = self._loader.load((*key, self._known.refreshes), fill, what)
        if isinstance(known.value, RescaleError):
            raise type(known.value)(*known.value.args)
        return known.value

    def _deadline(self) -> float:
        return self._clock() + self._deadline_s


def _is_of(view: RunView, run: Run) -> bool:
    """Tell whether *view* still is what *run* holds."""
    return is_same(view.run, run) if view.state is RunState.FINAL else view.run.completed_ns == run.completed_ns


def _arranged(files: FileRows, came: Callable[[], None]) -> tuple[Tree, Collection[RemoteFile]]:
    """Return the tree of a run's uploaded files, and these: packed, unless something of it has no place there."""
    try:
        tree = PackedTree(pack(files, came))
    except ValueError as error:
        log.info("a run is not kept on disk: %s", error)
        return build_tree(files), files
    return tree.root, PackedFiles(tree)


def _packed(job_id: str, run: Run, tree: PackedTree) -> RunView:
    return RunView(job_id, run, RunState.FINAL, tree.root, PackedFiles(tree), 0.0)


def _order(run: Run) -> tuple[int, int, str]:
    return run.order, int(run.id) if run.id.isascii() and run.id.isdigit() else 0, run.id
