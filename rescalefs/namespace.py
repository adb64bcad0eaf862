"""Which node stands at a path: the shape of the mount.

    /jobs.csv                              one line a job
    /by-name/<job name>~<id> -> ../jobs/<id>
    /jobs/<id>/runs.csv                    one line a run
    /jobs/<id>/runs/<n>/<relativePath>     outputs, and `stop` and `snapshot` while the run is live
    /jobs/<id>/runs/latest -> <n>
    /jobs/<id>/runs/<n>/.rescale/          run.json status files.json events refresh stop snapshot
    /jobs/<id>/.rescale/                   job.json status refresh
    /.rescale/                             version status stats transfers config refresh

The only module that knows this shape; a new file in it is one line in one of the tables below.
`.rescale` is reached by name and never listed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import PurePosixPath

from rescalefs import __version__, generated, tables
from rescalefs.catalog import Catalog, RunState, RunView
from rescalefs.control import ActKey
from rescalefs.errors import NameTooLong, NotADirectory, NotFound, RescaleError
from rescalefs.models import Job, Run
from rescalefs.names import MAX_NAME_BYTES, escape, with_id
from rescalefs.nodes import (
    Attributes,
    Directory,
    Entry,
    Fixed,
    Growing,
    Link,
    Node,
    Table,
    Text,
    act_file,
    directory_attributes,
    refresh_file,
)
from rescalefs.output_directory import OutputDirectory
from rescalefs.plain import plain
from rescalefs.rooms import Rooms
from rescalefs.tree import RESERVED

ACTS = ("stop", "snapshot")
# The names in the top directory below which there is what the kernel keeps for long.
FINAL_BELOW = ("jobs",)
# Directories of final runs that are found without going through those above them.
_MAX_MET = 256
# Job ids are short words of letters; what file managers and indexers probe for has dots, dashes or spaces.
_JOB_ID = re.compile(r"[A-Za-z0-9]{1,64}")


class Namespace:
    """Finds the node at a path. Threads: any."""

    def __init__(self, rooms: Rooms) -> None:
        self._root = _root(rooms)
        # Directories of final runs by path, as long as they are current: programs ask for one file after the other.
        # No lock: each access is one step of a dictionary.
        self._met: dict[str, OutputDirectory] = {}

    def attributes(self, path: str) -> Attributes:
        """Return what stat tells of what is at *path*, without making a node of it where that is not needed.

        Raises: as `node`.
        """
        above, _, name = path.rpartition("/")
        met = None if _is_too_long(name) else self._current(above)
        return met.attributes_of(name) if met is not None and name else self.node(path).attributes()

    def node(self, path: str) -> Node:
        """Return the node at *path*, which begins with "/" and is relative to the mount point.

        Raises:
            NotFound: there is nothing of that name.
            NameTooLong: there can be nothing of that name.
            NotADirectory: the path goes on below something that is none.
        """
        above, _, name = path.rpartition("/")
        met = None if _is_too_long(name) else self._current(above)
        if met is not None and name:
            return met.child(name)
        node: Node = self._root
        parent: Node = node
        for name in path.split("/"):
            if name:
                if not isinstance(node, Directory):
                    raise NotADirectory(f"{path} goes on below a file")
                if _is_too_long(name):
                    raise NameTooLong(f"{path} has a name of more than {MAX_NAME_BYTES} bytes")
                parent, node = node, node.child(name)
        if isinstance(parent, OutputDirectory) and parent.is_current():
            if len(self._met) >= _MAX_MET:
                self._met.clear()
            self._met[above] = parent
        return node

    def _current(self, path: str) -> OutputDirectory | None:
        """Return the directory of a final run at *path*, if it was met and is what a new look would find."""
        met = self._met.get(path)
        if met is not None and not met.is_current():
            self._met.pop(path, None)
            return None
        return met


def _is_too_long(name: str) -> bool:
    return len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES


def _root(rooms: Rooms) -> Directory:
    def own() -> Node:
        texts = {
            "version": lambda: f"{__version__}\n".encode(),
            "status": lambda: f"{plain(rooms.status())}\n".encode(),
            "stats": lambda: generated.table(rooms.stats()),
            "transfers": lambda: generated.transfers(rooms.engine.transfers()),
            "config": lambda: generated.table(rooms.config),
        }
        return Fixed(
            {
                **{name: _text(render, rooms.started_ns) for name, render in texts.items()},
                "refresh": lambda: refresh_file(rooms.refresh, rooms.started_ns),
            },
            modified_ns=rooms.started_ns,
        )

    catalog, started_ns = rooms.catalog, rooms.started_ns
    listed: dict[str, Callable[[], Node]] = {
        "jobs": lambda: _Jobs(rooms),
        "jobs.csv": lambda: Table(lambda: tables.jobs_csv(catalog.jobs().values()), started_ns),
        "by-name": lambda: _ByName(rooms),
    }
    return Fixed(listed, {RESERVED: own}, started_ns)


def refresh_path(path: PurePosixPath) -> PurePosixPath:
    """Return the control file that refreshes what is at *path*, both relative to the mount point: run, job or all."""
    match path.parts:
        case ("jobs", job_id, "runs", run_id, *_):
            level = PurePosixPath("jobs", job_id, "runs", run_id)
        case ("jobs", job_id, *_):
            level = PurePosixPath("jobs", job_id)
        case _:
            level = PurePosixPath()
    return level / RESERVED / "refresh"


def run_place(job_id: str, run_id: str) -> str:
    """Return the path of a run's directory."""
    return f"/jobs/{job_id}/runs/{run_id}"


def _text(render: Callable[[], bytes], modified_ns: int) -> Callable[[], Node]:
    return lambda: Text(render, modified_ns)


class _Jobs(Directory):
    """All jobs by id. Listing them lists no runs; a job that is not in the list is looked up by name."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.modified_ns = rooms.started_ns

    def child(self, name: str) -> Node:
        if not _JOB_ID.fullmatch(name):
            raise NotFound(f"no job can be called {name!r}")
        job = self._rooms.catalog.job(name)
        return _job(self._rooms, job.id, job.created_ns)

    def entries(self) -> Iterator[Entry]:
        for job in self._rooms.catalog.jobs().values():
            if _JOB_ID.fullmatch(job.id):
                yield Entry(job.id, *directory_attributes(job.created_ns))


class _ByName(Directory):
    """A link to each job under its name; the id after it keeps jobs of one name apart."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.modified_ns = rooms.started_ns

    def child(self, name: str) -> Node:
        _, mark, job_id = name.rpartition("~")
        if not mark or not _JOB_ID.fullmatch(job_id):
            raise NotFound(f"no job can be called {name!r}")
        job = self._rooms.catalog.job(job_id)
        if name != _shown_name(job):
            raise NotFound(f"job {job_id} has another name")
        return _job_link(job)

    def entries(self) -> Iterator[Entry]:
        for job in self._rooms.catalog.jobs().values():
            if _JOB_ID.fullmatch(job.id):
                yield _job_link(job).entry(_shown_name(job))


def _shown_name(job: Job) -> str:
    return with_id(escape(job.name) if job.name else "", job.id)


def _job_link(job: Job) -> Link:
    return Link(f"../jobs/{job.id}", job.created_ns)


class _Job(Fixed):
    """One job; its name and status are extended attributes."""

    def __init__(self, rooms: Rooms, job_id: str, created_ns: int, own: Callable[[], Node]) -> None:
        catalog = rooms.catalog
        listed: dict[str, Callable[[], Node]] = {
            "runs": lambda: _Runs(rooms, job_id, created_ns),
            "runs.csv": lambda: Table(lambda: _runs_csv(catalog, job_id), created_ns),
        }
        super().__init__(listed, {RESERVED: own}, created_ns)
        self._rooms = rooms
        self._job_id = job_id

    def xattrs(self) -> Mapping[str, Callable[[], str]]:
        catalog = self._rooms.catalog
        return {"name": lambda: catalog.job(self._job_id).name, "status": lambda: catalog.status(self._job_id)}


def _runs_csv(catalog: Catalog, job_id: str) -> bytes:
    runs = list(catalog.runs(job_id).values())
    return tables.runs_csv(runs, lambda run: catalog.state_as_known(job_id, run).value)


def _job(rooms: Rooms, job_id: str, created_ns: int) -> Directory:
    catalog = rooms.catalog

    def own() -> Node:
        return Fixed(
            {
                "job.json": _text(lambda: generated.job_json(catalog.job(job_id), catalog.status(job_id)), created_ns),
                "status": _text(lambda: generated.word(catalog.status(job_id)), created_ns),
                "refresh": lambda: refresh_file(lambda: rooms.refresh(job_id), created_ns),
            },
            modified_ns=created_ns,
        )

    return _Job(rooms, job_id, created_ns, own)


class _Runs(Directory):
    """The runs of a job, and `latest`."""

    def __init__(self, rooms: Rooms, job_id: str, created_ns: int) -> None:
        self._rooms = rooms
        self._job_id = job_id
        self.modified_ns = created_ns

    def child(self, name: str) -> Node:
        runs = self._rooms.catalog.runs(self._job_id)
        if name == "latest" and name not in runs and self._known():
            return self._latest()
        if name not in runs:
            raise NotFound(f"job {self._job_id} has no run {name}")
        return _Run(self._rooms, self._job_id, name)

    def entries(self) -> Iterator[Entry]:
        runs = self._known()
        for run in runs.values():
            modified_ns = run.completed_ns or run.started_ns or self.modified_ns
            yield Entry(run.id, *directory_attributes(modified_ns))
        if runs and "latest" not in runs:
            yield self._latest().entry("latest")

    def _latest(self) -> Link:
        return Link(list(self._known())[-1], self.modified_ns)

    def _known(self) -> Mapping[str, Run]:
        """Return the runs; as with jobs, one whose id is no file name has no folder."""
        runs = self._rooms.catalog.runs(self._job_id)
        return {id: run for id, run in runs.items() if escape(id) == id and len(id.encode()) <= MAX_NAME_BYTES}


class _Run(Directory):
    """The top directory of one run: its outputs, its controls while it is live, and `.rescale`.

    The listing is asked for when a child or the entries are, not for the attributes: `ls -l runs` is cheap.
    """

    def __init__(self, rooms: Rooms, job_id: str, run_id: str) -> None:
        self._rooms = rooms
        self._job_id = job_id
        self._run_id = run_id
        run = rooms.catalog.run(job_id, run_id)
        self.modified_ns = run.completed_ns or run.started_ns or rooms.catalog.job(job_id).created_ns

    def child(self, name: str) -> Node:
        if name == RESERVED:
            return self._own()
        view = self._rooms.catalog.view(self._job_id, self._run_id)
        if name not in view.root.entries and name in self._acts(view):
            return self._act(name)
        return OutputDirectory(self._rooms, view, (view.root,)).child(name)

    def entries(self) -> Iterable[Entry]:
        view = self._rooms.catalog.view(self._job_id, self._run_id)
        outputs, acts = OutputDirectory(self._rooms, view, (view.root,)).entries(), self._acts(view)
        return chain(outputs, self._listed_acts(view)) if acts else outputs

    def _listed_acts(self, view: RunView) -> Iterator[Entry]:
        for act in self._acts(view):
            if act not in view.root.entries:
                yield self._act(act).entry(act)

    def xattrs(self) -> Mapping[str, Callable[[], str]]:
        catalog = self._rooms.catalog
        return {"name": lambda: self._run_id, "status": lambda: catalog.state(self._job_id, self._run_id).value}

    @staticmethod
    def _acts(view: RunView) -> tuple[str, ...]:
        return ACTS if view.state is RunState.LIVE else ()

    def _act(self, act: str) -> Node:
        key = ActKey(self._job_id, self._run_id, act)
        return act_file(self._rooms.controls, key, self.modified_ns, is_read_only=self._rooms.is_read_only)

    def _own(self) -> Node:
        catalog, job_id, run_id = self._rooms.catalog, self._job_id, self._run_id

        def state() -> str:
            return catalog.state(job_id, run_id).value

        def events() -> tuple[bytes, int]:
            with contextlib.suppress(RescaleError):  # what was seen is true, whether or not more can be seen now
                catalog.view(job_id, run_id)
            return self._rooms.events.text(job_id, run_id)

        texts = {
            "run.json": lambda: generated.run_json(catalog.run(job_id, run_id), state()),
            "status": lambda: generated.word(state()),
            "files.json": lambda: generated.files_json(catalog.view(job_id, run_id)),
        }
        return Fixed(
            {
                **{name: _text(render, self.modified_ns) for name, render in texts.items()},
                "events": lambda: Growing(events, self.modified_ns),
                "refresh": lambda: refresh_file(lambda: self._rooms.refresh(job_id, run_id), self.modified_ns),
                **{act: lambda act=act: self._act(act) for act in ACTS},  # type: ignore[misc]
            },
            modified_ns=self.modified_ns,
        )
