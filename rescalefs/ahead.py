"""Files ahead of their reader: who reads a directory file by file gets the next ones fetched meanwhile.

Two orders are followed: that of a walk (`grep -r`, `cp -r`, `md5sum *`), and the same name in sibling directories
(`100/U`, `200/U`, ...: how a viewer loads a time series). What is fetched ahead grows with what was read of it, so
that little is fetched in vain. Only small files, which come whole: a large one is read ahead once it is being read.

It works on a thread of its own: an open costs its caller an entry in a queue.
"""

from __future__ import annotations

import logging
import queue
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol, overload

from cachetools import LRUCache

from rescalefs.models import RemoteFile
from rescalefs.tree import Leaf, LivePath, Tree

log = logging.getLogger(__name__)

# Files on their way ahead of a reader: enough for small files at 50 ms each to keep up with a reader of 1 ms each.
MAX_AHEAD = 48
# A reader may leave out this many files (unreadable names, other types) and still be in order.
_MAX_SKIPPED = 4
# Orders that are followed at a time: one walk a run, and one for each name.
_MAX_ORDERS = 64
# Names of a directory made at a time.
_AT_ONCE = 64


class Prefetcher(Protocol):
    """What fetches."""

    def prefetch(self, file: RemoteFile) -> bool:
        """Begin to fetch a small file that is not here; False if there is nothing to do."""


class Order:
    """A sequence of files that somebody may be reading, from some file on."""

    def __init__(self, following: Iterator[RemoteFile]) -> None:
        self._following = following
        self._next: deque[RemoteFile] = deque()  # what comes, the first `_begun` of it fetched ahead already
        self._begun = 0
        self._steps = 0

    def step(self, file: RemoteFile) -> bool:
        """Tell whether *file* is one of the next ones, and go on there."""
        self._fill(_MAX_SKIPPED)
        for skipped, candidate in enumerate(islice(self._next, _MAX_SKIPPED)):
            if candidate.id == file.id:
                for _ in range(skipped + 1):
                    self._next.popleft()
                self._begun = max(0, self._begun - skipped - 1)
                self._steps += 1
                return True
        return False

    def take(self) -> list[RemoteFile]:
        """Return the files to fetch now: none at first, then twice as many with each step."""
        wanted = min(MAX_AHEAD, 2**self._steps) if self._steps else 0
        self._fill(wanted)
        found = list(islice(self._next, self._begun, wanted))
        self._begun = max(self._begun, min(wanted, len(self._next)))
        return found

    def _fill(self, count: int) -> None:
        self._next.extend(islice(self._following, max(0, count - len(self._next))))


class FilesAhead:
    """Watches opens, and fetches what will be opened next. Threads: any."""

    def __init__(self, prefetcher: Prefetcher) -> None:
        self._prefetcher = prefetcher
        self._opens: queue.SimpleQueue[tuple[str, tuple[Tree, ...], tuple[str, ...], RemoteFile] | None]
        self._opens = queue.SimpleQueue()
        self._orders: LRUCache[tuple[str, str], Order] = LRUCache(_MAX_ORDERS)  # belongs to the thread

    def start(self) -> None:
        """Make the thread."""
        threading.Thread(target=self._work, name="ahead", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._opens.put(None)

    def opened(self, run: str, branches: tuple[Tree, ...], names: tuple[str, ...], file: RemoteFile) -> None:
        """Note that *file* of a *run* was opened: `branches[0]` is its top directory, `names` the path below it."""
        self._opens.put((run, branches, names, file))

    def _work(self) -> None:
        while (opened := self._opens.get()) is not None:
            try:
                self._follow(*opened)
            except Exception:
                log.exception("fetching files ahead")

    def _follow(self, run: str, branches: tuple[Tree, ...], names: tuple[str, ...], file: RemoteFile) -> None:
        orders = [((run, ""), walk_after(branches, names))]
        if len(names) > 1:
            orders.append(((run, f"{len(names)}/{names[-1]}"), same_after(branches, names)))
        for key, following in orders:
            order = self._orders.get(key)
            if order is None or not order.step(file):
                self._orders[key] = Order(following)
                continue
            for coming in order.take():
                self._prefetcher.prefetch(coming)


def walk_after(branches: tuple[Tree, ...], names: tuple[str, ...]) -> Iterator[RemoteFile]:
    """Yield the files that come after a path in a walk of its run."""
    for branch, name in zip(reversed(branches), reversed(names), strict=True):
        for leaf in _after(branch, name):
            if isinstance(leaf, RemoteFile):
                yield leaf
            elif not isinstance(leaf, LivePath):
                yield from (below for below in leaf.leaves() if isinstance(below, RemoteFile))


def same_after(branches: tuple[Tree, ...], names: tuple[str, ...]) -> Iterator[RemoteFile]:
    """Yield the files of the same name in the directories that come after a path's own."""
    for sibling in _after(branches[-2], names[-2]):
        leaf = None if isinstance(sibling, RemoteFile | LivePath) else sibling.entries.get(names[-1])
        if isinstance(leaf, RemoteFile):
            yield leaf


def _after(directory: Tree, name: str) -> Iterator[Leaf | Tree]:
    """Yield the entries after *name*, found by halving: who reads a directory in no order asks for it each time."""
    at = bisect_right(_Names(directory), name)
    while lines := list(directory.lines(at, at + _AT_ONCE)):
        yield from (directory.entries[line[0]] for line in lines)
        at += len(lines)


class _Names(Sequence[str]):
    """The names of a directory, which are in order, each made when it is asked for."""

    def __init__(self, directory: Tree) -> None:
        self._directory = directory

    def __len__(self) -> int:
        return len(self._directory.entries)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [line[0] for line in self._directory.lines(index.start or 0, index.stop)]
        return self[index : index + 1][0]
