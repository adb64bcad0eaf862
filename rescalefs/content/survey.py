"""What lies in a cache directory, for people; and how it is emptied, beside running mounts too.

Files are removed by unlink, so a mount that has one open reads on from it and fetches what it needs next. Directories
and locks stay: they are how the mounts know of each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rescalefs.content.cache import segments_directory
from rescalefs.private import open_inside, remove_inside

_BLOCK_BYTES = 512  # the unit of st_blocks


@dataclass(frozen=True, slots=True)
class Found:
    """Files of one kind: how many, their bytes on disk, and of how many contents they are."""

    files: int
    used_bytes: int
    contents: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in a cache directory: bytes of files, listings, and both of other versions of this program."""

    content: Found
    listings: Found
    others: Found
    is_used: bool  # by a mount, now


def survey(directory: Path, listings: Path) -> Survey:
    """Look at a cache directory whose listings are kept in *listings*.

    Raises:
        OSError: it cannot be looked at.
    """
    own, kept = segments_directory(directory), listings / "v1"
    tops = _versions(directory, listings)
    others = [top for top in tops if top not in (own, kept)]
    return Survey(_found([own]), _found([kept]), _found(others), any(map(_is_used, tops)))


def clear(directory: Path, listings: Path) -> None:
    """Remove all that is kept, by other versions of the program too."""
    for top in _versions(directory, listings):
        for name, _ in _files(top):
            with contextlib.suppress(OSError):  # a mount has removed or replaced it meanwhile
                remove_inside(top, name)


def _versions(directory: Path, listings: Path) -> list[Path]:
    """Return the directories in which a version of the program keeps things: `v<number>`, no link."""
    return [
        Path(entry.path)
        for place in (directory, listings)
        for entry in (os.scandir(place) if place.is_dir() else ())
        if entry.name[:1] == "v" and entry.name[1:].isdigit() and entry.is_dir(follow_symlinks=False)
    ]


def _files(top: Path) -> Iterator[tuple[str, int]]:
    """Yield the files one directory below *top*: `directory/file`, and the bytes that each takes."""
    if not top.is_dir():
        return
    for directory in os.scandir(top):
        if directory.is_dir(follow_symlinks=False):
            for entry in os.scandir(directory.path):
                with contextlib.suppress(FileNotFoundError):  # removed by a mount just now
                    yield f"{directory.name}/{entry.name}", entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES


def _found(tops: list[Path]) -> Found:
    files = [found for top in tops for found in _files(top)]
    contents = {name.rpartition(".")[0] or name for name, _ in files}
    return Found(len(files), sum(size for _, size in files), len(contents))


def _is_used(top: Path) -> bool:
    try:
        descriptor = open_inside(top, "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
