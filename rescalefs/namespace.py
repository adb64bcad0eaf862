"""Which node stands at a path: the shape of the mount.

    /jobs.csv                              one line a job
    /by-name/<job name>~<id> -> ../jobs/<id>
    /jobs/<id>/runs.csv                    one line a run
    /jobs/<id>/runs/<n>/<relativePath>     outputs, and `stop` and `snapshot` while the run is live
    /jobs/<id>/runs/latest -> <n>
    /jobs/<id>/runs/<n>/.rescale/          run.json status files.json events refresh stop snapshot
    /jobs/<id>/.rescale/                   job.json status refresh
    /.rescale/                             version status stats config refresh

The only module that knows this shape; a new file in it is one line in one of the tables below.
`.rescale` is reached by name and never listed.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from rescalefs import __version__, generated, tables
from rescalefs.ahead import FilesAhead
from rescalefs.catalog import Catalog, RunState, RunView
from rescalefs.content.engine import ContentEngine
from rescalefs.control import ActKey, Controls
from rescalefs.errors import NameTooLong, NotADirectory, NotFound, RescaleError
from rescalefs.events import Events
from rescalefs.follow import Follower
from rescalefs.models import Job, RemoteFile, Run
from rescalefs.names import MAX_NAME_BYTES, escape, with_id
from rescalefs.nodes import (
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
from rescalefs.outputs import EndingOutput, LiveOutput, OutputFile, output_attributes
from rescalefs.plain import plain
from rescalefs.tailing import LiveKey
from rescalefs.tree import RESERVED, Leaf, LivePath, Tree

ACTS = ("stop", "snapshot")
# Directories of final runs that are found without going through those above them.
_MAX_MET = 256
# Job ids are short words of letters; what file managers and indexers probe for has dots, dashes or spaces.
_JOB_ID = re.compile(r"[A-Za-z0-9]{1,64}")


@dataclass(frozen=True, slots=True)
class Rooms:
    """The collaborators that nodes are made of."""

    catalog: Catalog
    engine: ContentEngine
    ahead: FilesAhead
    follower: Follower
    controls: Controls
    events: Events
    is_read_only: bool
    started_ns: int
    status: Callable[[], str]
    stats: Callable[[], Mapping[str, object]]
    config: Mapping[str, object]


class Namespace:
    """Finds the node at a path. Threads: any."""

    def __init__(self, rooms: Rooms) -> None:
        self._root = _root(rooms)
        # Directories of final runs by path, as long as they are current: programs ask for one file after the other.
        # No lock: each access is one step of a dictionary.
        self._met: dict[str, _Outputs] = {}

    def node(self, path: str) -> Node:
        """Return the node at *path*, which begins with "/" and is relative to the mount point.

        Raises:
            NotFound: there is nothing of that name.
            NameTooLong: there can be nothing of that name.
            NotADirectory: the path goes on below something that is none.
        """
        above, _, name = path.rpartition("/")
        met = self._met.get(above)
        if met is not None and name:
            if met.is_current():
                return met.child(name)
            self._met.pop(above, None)
        node: Node = self._root
        parent: Node = node
        for name in path.split("/"):
            if name:
                if not isinstance(node, Directory):
                    raise NotADirectory(f"{path} goes on below a file")
                if len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
                    raise NameTooLong(f"{path} has a name of more than {MAX_NAME_BYTES} bytes")
                parent, node = node, node.child(name)
        if isinstance(parent, _Outputs) and parent.is_current():
            if len(self._met) >= _MAX_MET:
                self._met.clear()
            self._met[above] = parent
        return node


def _root(rooms: Rooms) -> Directory:
    def own() -> Node:
        texts = {
            "version": lambda: f"{__version__}\n".encode(),
            "status": lambda: f"{plain(rooms.status())}\n".encode(),
            "stats": lambda: generated.table(rooms.stats()),
            "config": lambda: generated.table(rooms.config),
        }
        return Fixed(
            {
                **{name: _text(render, rooms.started_ns) for name, render in texts.items()},
                "refresh": lambda: refresh_file(rooms.catalog.refresh, rooms.started_ns),
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
                yield Entry(job.id, stat.S_IFDIR, directory_attributes(job.created_ns))


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
                "refresh": lambda: refresh_file(lambda: catalog.refresh(job_id), created_ns),
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
            yield Entry(run.id, stat.S_IFDIR, directory_attributes(modified_ns))
        if runs and "latest" not in runs:
            yield Entry("latest", stat.S_IFLNK, self._latest().attributes())

    def _latest(self) -> Link:
        return Link(list(self._known())[-1], self.modified_ns)

    def _known(self) -> Mapping[str, Run]:
        """Return the runs; as with jobs, one whose id is no file name has no folder."""
        runs = self._rooms.catalog.runs(self._job_id)
        return {id: run for id, run in runs.items() if escape(id) == id and len(id.encode()) <= MAX_NAME_BYTES}


class _Outputs(Directory):
    """One directory of a run's files."""

    def __init__(self, rooms: Rooms, view: RunView, branches: tuple[Tree, ...], names: tuple[str, ...] = ()) -> None:
        self._rooms = rooms
        self._view = view
        self._branches = branches  # from the run's top directory to this one
        self._names = names  # those that lead here
        self._branch = branch = branches[-1]
        run = view.run
        self.modified_ns = branch.modified_ns or run.completed_ns or run.started_ns or 0

    def child(self, name: str) -> Node:
        leaf = self._branch.entries.get(name)
        if leaf is None:
            raise NotFound(f"no {name} here")
        return self._node(name, leaf)

    def entries(self) -> Iterator[Entry]:
        engine = self._rooms.engine
        for name, leaf in self._branch.entries.items():
            if isinstance(leaf, RemoteFile):
                yield Entry(name, stat.S_IFREG, output_attributes(leaf, engine))
            elif isinstance(leaf, LivePath):
                yield Entry(name, stat.S_IFREG, None)  # its size takes a read, which a listing is not worth
            else:
                yield Entry(name, stat.S_IFDIR, self._node(name, leaf).attributes())

    def is_current(self) -> bool:
        """Tell whether this is a directory of a final run, and still what a new look would find."""
        return self._view.state is RunState.FINAL and self._rooms.catalog.is_current(self._view)

    def _node(self, name: str, leaf: Leaf | Tree) -> Node:
        view, names = self._view, (*self._names, name)
        if not isinstance(leaf, RemoteFile | LivePath):
            return _Outputs(self._rooms, view, (*self._branches, leaf), names)
        key, follower = LiveKey(view.job_id, view.run.id, leaf.path), self._rooms.follower
        if isinstance(leaf, LivePath):
            return LiveOutput(key, follower)
        is_followed = follower.is_followed(key)
        opened = partial(self._rooms.ahead.opened, f"{view.job_id}/{view.run.id}", self._branches, names, leaf)
        may_change = is_followed or view.state is not RunState.FINAL
        output = OutputFile(leaf, self._rooms.engine, view.job_id, view.run.id, opened, may_change=may_change)
        if is_followed:
            return EndingOutput(key, follower, output, is_uploaded=leaf.is_uploaded)
        return output


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
        return _Outputs(self._rooms, view, (view.root,)).child(name)

    def entries(self) -> Iterator[Entry]:
        view = self._rooms.catalog.view(self._job_id, self._run_id)
        yield from _Outputs(self._rooms, view, (view.root,)).entries()
        for act in self._acts(view):
            if act not in view.root.entries:
                yield Entry(act, stat.S_IFREG, self._act(act).attributes())

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
                "refresh": lambda: refresh_file(lambda: catalog.refresh(job_id, run_id), self.modified_ns),
                **{act: lambda act=act: self._act(act) for act in ACTS},  # type: ignore[misc]
            },
            modified_ns=self.modified_ns,
        )
