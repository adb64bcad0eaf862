"""Jobs and their runs, as functions of the clock.

A job that was submitted goes through its `stages`; it is `Completed` when all its runs are.
A date in the future is what will happen, until a run is stopped.
Dates are seconds since the epoch, durations (`_s`) are seconds.
Life cycle, words and reasons: Rescale API documentation (2016), Rescale's API notebook (2023).
Threads: any method, any thread; each holds the world's lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rescalefs.emulator.archive import ArchiveFormat, pack
from rescalefs.emulator.content import ContentLike, as_content
from rescalefs.emulator.files import SNAPSHOT, File, LiveFile, Step

if TYPE_CHECKING:
    from rescalefs.emulator.world import World

# Delays after submission of a job's statuses, for a job that is told nothing else.
STAGES_S: Mapping[str, float] = {"Pending": 0, "Queued": 1, "Started": 2, "Validated": 3, "Executing": 4}
# How long a finished run took, when nothing else is told.
DEFAULT_RUN_S = 3600.0
# Delays of the cluster's end after the job's (an example of the API documentation: 0.4, 3 and 46 s).
CLUSTER_END_S: Mapping[str, float] = {"Stop Requested": 0.4, "Stopping": 3.0, "Stopped": 46.0}
# The job status with which the cluster reaches one of its own.
CLUSTER_STAGES: Mapping[str, str] = {"Queued": "Not Started", "Started": "Starting", "Validated": "Started"}


@dataclass(frozen=True)
class Status:
    """One line of a status history."""

    date: float
    status: str
    reason: str | None = None


@dataclass
class Snapshot:
    """What the cluster answers to a request for a snapshot."""

    last_id: str | None  # File id of the one before, not of this one.
    exitcode: int
    reason: str


@dataclass(eq=False)
class Run:
    """One run of a job: live while its start is past and its end is not."""

    job: Job = field(repr=False)
    id: str
    started: float
    completed: float | None
    display_order: int
    failed: bool = False
    variables: list[dict[str, Any]] = field(default_factory=list)
    type: int = 3  # 1 optimization, 2 iteration, 3 case.
    parent: str | None = None
    is_optimal: bool = False
    trickle_s: float = 0.0  # Seconds each output takes to upload after the end, one after the other.
    snapshot_exitcode: int = 0
    snapshot_format: ArchiveFormat = "tar.gz"
    output_file_count: int | None = None  # A wrong `outputFileCount`; None tells the truth.
    files: list[File] = field(default_factory=list, repr=False)
    live: dict[str, LiveFile] = field(default_factory=dict, repr=False)
    _last_listed_from: float = 0.0
    _output_bytes: int = 0

    def is_visible(self) -> bool:
        """Tell whether listings have the run: it has started."""
        return self.started <= self.job.world.clock.now()

    def is_live(self) -> bool:
        """Tell whether the run is computing now."""
        now = self.job.world.clock.now()
        return self.started <= now and (self.completed is None or now < self.completed)

    def add_file(self, path: str | None, content: ContentLike, **fields: Any) -> File:
        """Add an output file and return it; *fields* are those of `File`.

        Its upload date is the end of the run, or now while it is live; its name the last part of *path*.
        """
        world = self.job.world
        content = as_content(content)
        with world.lock:
            now = world.clock.now()
            fields.setdefault("id", None)
            fields["id"] = world.claim_id(fields["id"], length=6)
            fields.setdefault("name", (path or fields["id"]).rpartition("/")[2] or path)
            fields.setdefault("date_uploaded", now if self.completed is None else min(now, self.completed))
            file = File(relative_path=path, content=content, **fields)
            self.files.append(file)
            self._last_listed_from = max(self._last_listed_from, file.listed_from)
            self._output_bytes += content.size
            world.files[file.id] = (self, file)
            return file

    def add_tree(self, root: str | os.PathLike[str], prefix: str = "", **fields: Any) -> None:
        """Add every file below the local directory *root* as an output below *prefix*, in order of name."""
        for path in sorted(path for path in Path(root).rglob("*") if path.is_file()):
            self.add_file(str(PurePosixPath(prefix, path.relative_to(root))), path, **fields)

    def add_live(
        self, path: str, content: ContentLike = b"", *, script: Iterable[Step] = (), since_s: float = 0.0
    ) -> LiveFile:
        """Add a file that the run writes, from *since_s* seconds after its start, and return it."""
        world = self.job.world
        content = as_content(content)
        with world.lock:
            self.live[path] = LiveFile(
                path,
                content.read(0, content.size),
                script=script,
                since_s=since_s,
                clock=world.clock,
                lock=world.lock,
                times=lambda: (self.started, self.completed),
                move=self.add_live,
            )
            return self.live[path]

    def rotate(self, path: str, to: str) -> LiveFile:
        """Move a live file to *to*, as log rotation does, and return the empty one that takes its place."""
        with self.job.world.lock:
            self.add_live(to, self.live[path].read())
            self.live[path].replace(b"")
            return self.live[path]

    def live_files(self) -> list[LiveFile]:
        """Return the files of the working directory as they are now, none if the run is not live."""
        with self.job.world.lock:
            self._catch_up()
            return [file for file in self.live.values() if file.exists()] if self.is_live() else []

    def live_file(self, path: str) -> LiveFile | None:
        """Return the file of the working directory at *path*, None if there is none now."""
        with self.job.world.lock:
            self._catch_up()
            found = self.live.get(path)
            return found if found is not None and found.exists() else None

    def listed_files(self) -> list[File]:
        """Return the output files that listings have now."""
        with self.job.world.lock:
            self._settle()
            now = self.job.world.clock.now()
            if self._last_listed_from <= now:
                return self.files
            return [file for file in self.files if file.is_listed(now)]

    def output_count(self) -> int:
        """Return how many output files there will be when all are uploaded."""
        with self.job.world.lock:
            self._settle()
            return len(self.files)

    def output_bytes(self) -> int:
        """Return their size together."""
        with self.job.world.lock:
            self._settle()
            return self._output_bytes

    def finish(self, *, failed: bool = False, in_s: float = 0.0) -> None:
        """Let the run end *in_s* seconds from now, by itself."""
        with self.job.world.lock:
            self.completed = self.job.world.clock.now() + in_s
            self.failed = failed

    def stop(self) -> bool:
        """Stop the run: it ends `World.stop_s` seconds from now. Return False if it is not live."""
        world = self.job.world
        with world.lock:
            if not self.is_live():
                return False
            now = world.clock.now()
            self.completed = min(now + world.stop_s, self.completed or float("inf"))
            if all(run.completed is not None for run in self.job.runs.values()):
                self.job.stopped = self.job.stopped or now
            return True

    def snapshot(self) -> Snapshot | None:
        """Begin a snapshot: an archive of the live files of this moment, an output `World.snapshot_s` later.

        None if the run is not live.
        """
        world = self.job.world
        with world.lock:
            if not self.is_live():
                return None
            earlier = [file.id for file in self.listed_files() if file.type_id == SNAPSHOT]
            last_id = earlier[-1] if earlier else None
            if self.snapshot_exitcode:
                return Snapshot(last_id, self.snapshot_exitcode, "Snapshot failed.")
            now = world.clock.now()
            due = now + world.snapshot_s
            number = 1 + sum(file.type_id == SNAPSHOT for file in self.files)
            members = {file.path: file.read() for file in self.live_files()}
            self.add_file(
                f"snapshot_{number}.{self.snapshot_format}",
                pack(members, self.snapshot_format, now),
                type_id=SNAPSHOT,
                listed_from=due,
                date_uploaded=due,
            )
            return Snapshot(last_id, 0, "Generating snapshot.")

    def _catch_up(self) -> None:
        """Let the scripts of all live files do what is due: a rotation makes another file."""
        for file in list(self.live.values()):
            file.exists()

    def _settle(self) -> None:
        """Once the run has ended, make its live files outputs, each listed and then uploaded in its turn."""
        if self.completed is None or self.job.world.clock.now() < self.completed:
            return
        due = self.completed
        self._catch_up()
        for path, live in list(self.live.items()):
            if live.exists():
                self.add_file(path, live.read(), listed_from=due, date_uploaded=due + self.trickle_s)
                due += self.trickle_s
        self.live.clear()


@dataclass(eq=False)
class Job:
    """One job and its runs, in order."""

    world: World = field(repr=False)
    id: str
    name: str
    owner: str
    created: float
    submitted: float | None  # None: saved, never submitted.
    stages: Mapping[str, float]
    analysis: str
    expected_runs: int | None = None
    zone: str = "Z"  # How dates of files and runs are written: `Z`, `+00:00`, `-07:00`.
    stopped: float | None = None
    ended: float | None = None  # The end of a job that has no run to end with.
    runs: dict[str, Run] = field(default_factory=dict)

    def add_run(
        self,
        id: str | None = None,
        *,
        finished: bool = False,
        started: float | None = None,
        completed: float | None = None,
        files: Mapping[str, ContentLike] | None = None,
        live: Mapping[str, ContentLike] | None = None,
        variables: Mapping[str, float | str] | None = None,
        **fields: Any,
    ) -> Run:
        """Add a run and return it; *fields* are those of `Run`.

        With neither *finished* nor *completed* it is live: it starts now, or when the job comes to execute.
        A finished one started with the job and took `DEFAULT_RUN_S`, unless dates are given.
        """
        now = self.world.clock.now()
        executing = self.executing_at()
        with self.world.lock:
            if started is None:
                started = min(executing, now) if finished else max(executing, now)
            if finished and completed is None:
                completed = min(started + DEFAULT_RUN_S, now)
            order = len(self.runs) + 1
            run = Run(self, str(order) if id is None else id, started, completed, order, **fields)
            for name, value in (variables or {}).items():
                run.variables.append({"name": name, "value": value, "displayValue": str(value), "isRelative": False})
            self.runs[run.id] = run
            for path, content in (files or {}).items():
                run.add_file(path, content)
            for path, content in (live or {}).items():
                run.add_live(path, content)
            return run

    def executing_at(self) -> float:
        """Return when runs begin; for a job that never gets there, when its last stage does."""
        return (self.submitted or self.created) + max(self.stages.values(), default=0.0)

    def visible_runs(self) -> list[Run]:
        """Return the runs that listings have."""
        with self.world.lock:
            return [run for run in self.runs.values() if run.is_visible()]

    def stop(self) -> None:
        """Stop the job: its live runs end, those to come never start."""
        with self.world.lock:
            now = self.world.clock.now()
            if self.submitted is None or (self._end() or now + 1) <= now:
                return
            self.runs = {run.id: run for run in self.visible_runs()}
            live = [run for run in self.runs.values() if run.stop()]
            self.stopped = self.stopped or now
            if not live:
                self.ended = now + self.world.stop_s
            self.expected_runs = len(self.runs)

    def history(self) -> list[Status]:
        """Return the status history up to now, oldest first; empty for a job never submitted."""
        with self.world.lock:
            if self.submitted is None:
                return []
            stop = self.stopped or float("inf")
            history = [Status(self.submitted + delay, stage) for stage, delay in self.stages.items()]
            history = [status for status in history if status.date <= stop]
            if self.stopped is not None:
                history.append(Status(self.stopped, "Stopping"))
            end = self._end()
            if end is not None:
                history.append(Status(end, "Completed", self._reason()))
            return self._past(history)

    def cluster_history(self) -> list[Status]:
        """Return the cluster's history up to now, oldest first; empty before there is a cluster."""
        with self.world.lock:
            if self.submitted is None:
                return []
            history = [
                Status(self.submitted + delay, CLUSTER_STAGES[stage])
                for stage, delay in self.stages.items()
                if stage in CLUSTER_STAGES
            ]
            end = self._end()
            if end is not None:
                history += [Status(end + delay, status) for status, delay in CLUSTER_END_S.items()]
            return self._past(history)

    def _past(self, history: list[Status]) -> list[Status]:
        now = self.world.clock.now()
        return [status for status in history if status.date <= now]

    def _end(self) -> float | None:
        if self.ended is not None:
            return self.ended
        ends = [run.completed for run in self.runs.values()]
        known = [end for end in ends if end is not None]
        complete = len(known) == len(ends) >= max(1, self.expected_runs or 1)
        return max(known) if complete else None

    def _reason(self) -> str:
        if self.stopped is not None:
            return "User Terminated"
        failed = any(run.failed for run in self.runs.values())
        return "A run failed" if failed else "Completed successfully"
