"""A directory that somebody has open, as readdir gives it: some entries at a time, all of one moment."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from rescalefs.kernel import KernelMemory
from rescalefs.looks import Told
from rescalefs.nodes import Attributes, Entry

# As many as fit into the kernel's largest buffer, about.
_AT_ONCE = 1024
_DOTS = 2  # the entries "." and ".."
_INODE_BITS = (1 << 63) - 1

# Of an entry: name, inode number, mode, size in bytes, time in nanoseconds since the epoch. Without a size, nothing but
# the inode number and the kind is told.
Dirent = tuple[bytes, int, int, "int | None", int]


def inode_of(path: str) -> int:
    """Return the inode number of a path: 63 bits of a hash, so that it outlives remounts; never 0, nor the root's 1."""
    return max(2, xxh3_64_intdigest(path.encode(errors="surrogateescape")) & _INODE_BITS)


class OpenDirectory(NamedTuple):
    """What there was in a directory when it was opened. Threads: any."""

    path: str  # "" for the top directory
    attributes: Attributes
    entries: Sequence[Entry]
    generation: int  # of the kernel's memory, at that moment

    def dirents(self, offset: int, kernel: KernelMemory, sharing: Mapping[str, object], told: Told) -> list[Dirent]:
        """Return some entries, from number *offset* on; none at the end.

        The kernel takes along what stat tells of those that *told* says. It is told no size that is not known, or is
        not certain any more, nor that of a file in *sharing*, for which stat may tell another.
        """
        base, here, entries, generation = self
        dirents: list[Dirent] = []
        if offset == 0:
            above = inode_of(os.path.dirname(base) or "/")
            dirents = [(b".", inode_of(base or "/"), here.mode, None, 0), (b"..", above, stat.S_IFDIR, None, 0)]
        start = max(0, offset - _DOTS)
        stop = start + _AT_ONCE - len(dirents)
        place = f"{base}/".encode(errors="surrogateescape")
        is_certain = told is not Told.NAMES and generation == kernel.generation
        has_files = told is not Told.DIRECTORIES
        for name, mode, size, modified_ns, lasts in entries[start:stop]:
            shown = name.encode("utf-8", "surrogateescape")
            inode = max(2, xxh3_64_intdigest(place + shown) & _INODE_BITS)
            if size is not None:
                if not is_certain or not (has_files or stat.S_ISDIR(mode)) or (sharing and f"{base}/{name}" in sharing):
                    size = None
                elif not lasts:
                    if kernel.has_room:
                        kernel.told(f"{base}/{name}")
                    else:
                        size = None
            dirents.append((shown, inode, mode, size, modified_ns))
        if told is Told.ALL_BUT_ONE and stop >= len(entries):
            _withhold_one(dirents)
        return dirents


def _withhold_one(dirents: list[Dirent]) -> None:
    """Tell the last file by its name alone."""
    for number in reversed(range(len(dirents))):
        name, inode, mode, _, modified_ns = dirents[number]
        if stat.S_ISREG(mode):
            dirents[number] = (name, inode, mode, None, modified_ns)
            return
