"""The directories of a run's files. Those of a final run make a line of a listing straight from the packed tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import overload

from rescalefs.catalog import RunState, RunView
from rescalefs.errors import NotFound
from rescalefs.models import RemoteFile
from rescalefs.nodes import DIRECTORY_MODE, Attributes, Directory, Entry, Node, directory_attributes
from rescalefs.outputs import FILE_MODE, EndingOutput, LiveOutput, OutputFile
from rescalefs.rooms import Rooms
from rescalefs.tailing import LiveKey
from rescalefs.tree import Leaf, Line, LivePath, Tree


class OutputDirectory(Directory):
    """One directory of a run's files."""

    def __init__(self, rooms: Rooms, view: RunView, branches: tuple[Tree, ...], names: tuple[str, ...] = ()) -> None:
        self._rooms = rooms
        self._view = view
        self._branches = branches  # from the run's top directory to this one
        self._names = names  # those that lead here
        self._branch = branch = branches[-1]
        self._otherwise_ns = view.run.completed_ns or view.run.started_ns or 0
        self.modified_ns = branch.modified_ns or self._otherwise_ns

    def attributes(self) -> Attributes:
        """The time is that of the newest file below."""
        return directory_attributes(self.modified_ns, lasts=self._view.state is RunState.FINAL)

    def attributes_of(self, name: str) -> Attributes:
        """Return what stat tells of an entry; of a final run's straight from the tree."""
        line = self._branch.line(name) if self._view.state is RunState.FINAL and not self._followed() else None
        if line is None:
            return self.child(name).attributes()
        _, mode, size, modified_ns, lasts = self._entry(line, is_followed=False)
        assert size is not None  # nothing of a final run is live
        return Attributes(mode, size, modified_ns, lasts)

    def child(self, name: str) -> Node:
        """Return the file or directory of that name."""
        leaf = self._branch.entries.get(name)
        if leaf is None:
            raise NotFound(f"no {name} here")
        return self._node(name, leaf)

    def entries(self) -> Iterable[Entry]:
        """Return all entries; those of a final run as a sequence."""
        entries = partial(self._entries, is_followed=self._followed())
        is_final = self._view.state is RunState.FINAL
        return _Entries(self._branch, entries) if is_final else entries(self._branch.lines())

    def _entries(self, lines: Iterable[Line], *, is_followed: bool) -> list[Entry]:
        """Return lines of this directory; where each is as the tree has it, by the hundred thousand."""
        if is_followed or self._view.state is not RunState.FINAL or self._rooms.engine.other_sizes:
            return [self._entry(line, is_followed=is_followed) for line in lines]
        otherwise_ns = self._otherwise_ns
        return [
            Entry(name, DIRECTORY_MODE, 0, modified_ns or otherwise_ns, True)
            if is_directory
            else Entry(name, FILE_MODE, size, modified_ns, True)
            for name, is_directory, size, modified_ns in lines
        ]

    def _followed(self) -> bool:
        """Tell whether somebody has a live file of the run open, which is not what is listed for it."""
        return bool(self._rooms.follower.followed(self._view.job_id, self._view.run.id))

    def _entry(self, line: Line, *, is_followed: bool) -> Entry:
        """Return a line of this directory. A live file has no size: that takes a read, which a listing is not worth."""
        name, is_directory, size, modified_ns = line
        is_final = self._view.state is RunState.FINAL
        if is_directory:
            return Entry(name, *directory_attributes(modified_ns or self._otherwise_ns, lasts=is_final))
        if size is None or is_followed:
            return Entry(name, FILE_MODE)
        if not self._rooms.engine.other_sizes:
            return Entry(name, FILE_MODE, size, modified_ns, is_final)
        file = self._branch.entries[name]
        assert isinstance(file, RemoteFile)
        shown = self._rooms.engine.size(file)
        return Entry(name, FILE_MODE, shown, modified_ns, is_final and shown == size)

    def is_current(self) -> bool:
        """Tell whether this is a directory of a final run, and still what a new look would find."""
        return self._view.state is RunState.FINAL and self._rooms.catalog.is_current(self._view)

    def _node(self, name: str, leaf: Leaf | Tree) -> Node:
        view, names = self._view, (*self._names, name)
        if not isinstance(leaf, RemoteFile | LivePath):
            return OutputDirectory(self._rooms, view, (*self._branches, leaf), names)
        key, follower = LiveKey(view.job_id, view.run.id, leaf.path), self._rooms.follower
        if isinstance(leaf, LivePath):
            return LiveOutput(key, follower)
        is_followed = follower.is_followed(key)
        opened = partial(self._rooms.ahead.opened, f"{view.job_id}/{view.run.id}", self._branches, names, leaf)
        may_change = is_followed or not self._rooms.catalog.is_steady(view)
        output = OutputFile(leaf, self._rooms.engine, view.job_id, view.run.id, opened, may_change=may_change)
        if is_followed:
            return EndingOutput(key, follower, output, is_uploaded=leaf.is_uploaded)
        return output


class _Entries(Sequence[Entry]):
    """The lines of one directory of a final run, made when they are asked for."""

    def __init__(self, branch: Tree, entries: Callable[[Iterable[Line]], list[Entry]]) -> None:
        self._branch = branch
        self._entries = entries

    def __len__(self) -> int:
        return len(self._branch.entries)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(index, int):
            return self[index : index + 1][0]
        return self._entries(self._branch.lines(index.start or 0, index.stop))
