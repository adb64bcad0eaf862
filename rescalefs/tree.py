"""The directory tree of one run, built from flat lists of paths.

The API lists files only; directories are the prefixes of their paths, empty ones do not exist.
Nothing is hidden: of files that claim one place the newest upload gets the plain name, the others `name~<file id>`;
a file whose path is also a directory's gets `name~<file id>`, and so does a file that would be called `.rescale`.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from rescalefs.models import RemoteFile
from rescalefs.names import escape, fit, is_short, with_id

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
    places = places_of(leaf.path for leaf in leaves)
    branches = [Branch() for _ in places]
    for place, branch in zip(places, branches, strict=True):
        names = place.names(lambda file: leaves[file].path, lambda file: leaves[file].id, rank=lambda file: file)
        branch.entries = {name: branches[number] for name, number in place.below.items()}
        branch.entries.update((name, leaves[file]) for name, file in names.items())
        branch.entries = dict(sorted(branch.entries.items()))  # so that listings read the same each time
    for branch in reversed(branches):  # those below before those above
        for entry in branch.entries.values():
            if not isinstance(entry, LivePath):
                newest_ns = entry.modified_ns if isinstance(entry, Branch) else entry.uploaded_ns
                branch.modified_ns = max(branch.modified_ns, newest_ns)
    return branches[0]


@dataclass(slots=True)
class Place:
    """One directory as paths tell it: the numbers of those below it by shown name, and those of its files."""

    is_top: bool = False
    below: dict[str, int] = field(default_factory=dict)
    files: array[int] = field(default_factory=lambda: array("I"))

    def names(
        self, path_of: Callable[[int], str], id_of: Callable[[int], str], rank: Callable[[int], Any]
    ) -> dict[str, int]:
        """Return the files by the names under which they are shown; of those that want one name, the lowest *rank*."""

        def wanted(file: int) -> str:
            name = escape(path_of(file).rpartition("/")[2])
            return name if is_short(name) else with_id(name, id_of(file))

        found = {wanted(file): file for file in self.files}
        is_plain = len(found) == len(self.files) and found.keys().isdisjoint(self.below)
        if is_plain and not (self.is_top and RESERVED in found):
            return found
        found, late = {}, []
        for file in sorted(self.files, key=rank):
            name = wanted(file)
            if name in found or name in self.below or (self.is_top and name == RESERVED):
                late.append((name, file))
            else:
                found[name] = file
        for name, file in late:  # after all plain names are taken, so that a mark never displaces one
            while name in found or name in self.below or name == RESERVED:
                name = with_id(name, id_of(file))
            found[name] = file
        return found


def places_of(paths: Iterable[str]) -> list[Place]:
    """Return the directories that *paths* lead through, each after the one above it; the first one is the top."""
    places = [Place(is_top=True)]
    known: dict[str, int] = {}  # most files are in a directory that was met before
    for file, path in enumerate(paths):
        above, mark, _ = path.rpartition("/")
        number = known.get(above) if mark else 0
        if number is None:
            number = known[above] = _dig(places, above.split("/"))
        places[number].files.append(file)
    return places


def _dig(places: list[Place], segments: Iterable[str]) -> int:
    """Return the number of a directory, made where it is missing."""
    number = 0
    for segment in segments:
        name = escape(segment)
        if number == 0 and name == RESERVED:
            name = "%2E" + name[1:]
        name = fit(name, _mark(segment))
        below = places[number].below.get(name)
        if below is None:
            below = places[number].below[name] = len(places)
            places.append(Place())
        number = below
    return number


def _mark(segment: str) -> str:
    return hashlib.blake2b(segment.encode(errors="surrogatepass"), digest_size=4).hexdigest()
