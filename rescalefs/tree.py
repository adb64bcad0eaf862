"""The directory tree of one run, built from flat lists of paths.

The API lists files only; directories are the prefixes of their paths, empty ones do not exist.
Nothing is hidden: of files that claim one place the newest upload gets the plain name, the others `name~<file id>`;
a file whose path is also a directory's gets `name~<file id>`, and so does a file that would be called `.rescale`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from rescalefs.models import RemoteFile
from rescalefs.names import escape, fit, with_id

# The names that the mount itself answers in a run's directory; no output is shown under them.
RESERVED = ".rescale"


@dataclass(frozen=True, slots=True)
class LivePath:
    """A file in a live run's working directory; nothing but its path is known from the listing."""

    path: str

    @property
    def id(self) -> str:
        """A short stand-in for the file id that live files do not have."""
        return hashlib.blake2b(self.path.encode(errors="surrogatepass"), digest_size=4).hexdigest()


Leaf = RemoteFile | LivePath
# An entry as a listing needs it: shown name, whether it is a directory, size in bytes, newest upload. A live file has
# no size.
Line = tuple[str, bool, "int | None", int]


class Tree(Protocol):
    """One directory, however it is held: its entries by shown name, in order, and the newest upload below it."""

    @property
    def entries(self) -> Mapping[str, Leaf | Tree]:
        """Return what is in it."""

    @property
    def modified_ns(self) -> int:
        """Return the newest upload below it, 0 if there is none."""

    def leaves(self) -> Iterator[Leaf]:
        """Yield every file below it."""

    def lines(self, start: int = 0, stop: int | None = None) -> Iterable[Line]:
        """Return the entries from number *start* up to *stop*, as a listing needs them."""

    def line(self, name: str) -> Line | None:
        """Return one entry as a listing needs it, None if there is none."""


@dataclass(slots=True)
class Branch:
    """One directory: its entries by shown name. `modified_ns` is the newest upload below it, 0 if there is none."""

    entries: dict[str, Leaf | Branch] = field(default_factory=dict)
    modified_ns: int = 0

    def leaves(self) -> Iterator[Leaf]:
        """Yield every file below this directory."""
        waiting: list[Leaf | Branch] = [self]
        while waiting:
            entry = waiting.pop()
            if isinstance(entry, Branch):
                waiting += reversed(entry.entries.values())
            else:
                yield entry

    def lines(self, start: int = 0, stop: int | None = None) -> list[Line]:
        """Return the entries from number *start* up to *stop*, as a listing needs them."""
        return [_line(name, entry) for name, entry in islice(self.entries.items(), start, stop)]

    def line(self, name: str) -> Line | None:
        """Return one entry as a listing needs it, None if there is none."""
        entry = self.entries.get(name)
        return None if entry is None else _line(name, entry)


def _line(name: str, entry: Leaf | Branch) -> Line:
    if isinstance(entry, RemoteFile):
        return name, False, entry.size, entry.uploaded_ns
    return (name, True, 0, entry.modified_ns) if isinstance(entry, Branch) else (name, False, None, 0)


def changed_kinds(one: Tree, other: Tree) -> Iterator[str]:
    """Yield the shown paths that both trees have, as a file in one and as a directory in the other."""
    waiting = [(one, other, "")]
    while waiting:
        one, other, place = waiting.pop()
        for name, entry in one.entries.items():
            now = other.entries.get(name)
            if now is None:
                continue
            is_file, is_file_now = isinstance(entry, Leaf), isinstance(now, Leaf)
            if is_file != is_file_now:
                yield place + name
            elif not isinstance(entry, Leaf) and not isinstance(now, Leaf):
                waiting.append((entry, now, f"{place}{name}/"))


def build_tree(files: Iterable[RemoteFile], live_paths: Iterable[str] = ()) -> Branch:
    """Arrange output files and live paths as directories; an output file replaces the live one of its path."""
    # Newest upload first, so that it is the one to get the plain name; the id makes the order total.
    ordered = sorted(files, key=lambda file: (-file.uploaded_ns, file.id))
    uploaded = {file.path for file in ordered}
    live = [LivePath(path) for path in dict.fromkeys(live_paths) if path not in uploaded]
    leaves: list[Leaf] = [*ordered, *live]
    root = Branch()
    directories: dict[str, Branch] = {}
    homes = [_home(root, directories, leaf) for leaf in leaves]
    late: list[tuple[Branch, str, Leaf]] = []
    for leaf, (branch, name) in zip(leaves, homes, strict=True):
        if name in branch.entries or (branch is root and name == RESERVED):
            late.append((branch, name, leaf))
        else:
            branch.entries[name] = leaf
    for branch, name, leaf in late:  # after all plain names are taken, so that a mark never displaces one
        while name in branch.entries or name == RESERVED:
            name = with_id(name, leaf.id)
        branch.entries[name] = leaf
    _finish(root)
    return root


def _finish(root: Branch) -> None:
    """Order the entries by name, below too, so that listings read the same each time; and tell how new they are."""
    branches = [root]  # not by recursion: how deep a path is, is the API's to say
    for branch in branches:
        branch.entries = dict(sorted(branch.entries.items()))
        branches += [entry for entry in branch.entries.values() if isinstance(entry, Branch)]
    for branch in reversed(branches):  # those below before those above
        for entry in branch.entries.values():
            if not isinstance(entry, LivePath):
                newest_ns = entry.modified_ns if isinstance(entry, Branch) else entry.uploaded_ns
                branch.modified_ns = max(branch.modified_ns, newest_ns)


def _home(root: Branch, directories: dict[str, Branch], leaf: Leaf) -> tuple[Branch, str]:
    """Return the directory that *leaf* belongs to, and the name it would like.

    *directories* are those met before, by their paths: most files are in one of them.
    """
    place, mark, last = leaf.path.rpartition("/")
    if not mark:
        return root, fit(escape(last), leaf.id)
    branch = directories.get(place)
    if branch is None:
        branch = directories[place] = _directory(root, place.split("/"))
    return branch, fit(escape(last), leaf.id)


def _directory(root: Branch, segments: Iterable[str]) -> Branch:
    """Return a directory, made where it is missing."""
    branch = root
    for parent in segments:
        name = escape(parent)
        if branch is root and name == RESERVED:
            name = "%2E" + name[1:]
        below = branch.entries.setdefault(fit(name, _mark(parent)), Branch())
        assert isinstance(below, Branch)  # files are placed after all directories exist
        branch = below
    return branch


def _mark(segment: str) -> str:
    return hashlib.blake2b(segment.encode(errors="surrogatepass"), digest_size=4).hexdigest()
