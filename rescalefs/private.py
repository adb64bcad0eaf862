"""Directories and files that are the user's own: nobody else may read them, or have put them there.

What lies in the cache is believed, so a place where somebody else could have put it is refused, and no link that lies
inside of it is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotPrivate(PermissionError):
    """A directory cannot be trusted; the text is one sentence with the remedy."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.EPERM, what, str(path))

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def make_top(path: Path, *, with_parents: bool = False) -> None:
    """Make the directory that the user named, which may also be a link to one.

    Raises:
        NotPrivate: it is another user's, or another user may rename what is in it.
        OSError: it cannot be made.
    """
    for place in [*reversed(path.parents), path] if with_parents else [path]:  # mkdir's mode would be the last one's
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)
    info = os.stat(path)
    if not stat.S_ISDIR(info.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if info.st_uid not in (0, os.geteuid()):
        raise NotPrivate(path, "belongs to another user: choose a directory of your own")
    if info.st_mode & _OTHERS_WRITE and not info.st_mode & stat.S_ISVTX:
        raise NotPrivate(path, f"can be changed by other users: run  chmod go-w {path}")


def make_inside(path: Path) -> None:
    """Make a directory in one that can be trusted, for its owner alone.

    Raises:
        NotPrivate: it is a link, another user's, or was open for others to write to.
        OSError: it cannot be made.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        info = os.lstat(path)
        if not stat.S_ISDIR(info.st_mode):
            raise NotPrivate(path, "is a link, or a file, where a directory should be: remove it") from None
        if info.st_uid != os.geteuid():
            raise NotPrivate(path, "belongs to another user: remove it, or choose another directory") from None
        if info.st_mode & _OTHERS_WRITE:
            raise NotPrivate(path, "could be changed by other users: remove it") from None
        if info.st_mode & _OTHERS:
            os.chmod(path, 0o700)


def open_inside(top: Path, name: str, flags: int) -> int:
    """Open a file *name*, `directory/file`, in a directory that can be trusted; no link is followed.

    Raises:
        OSError: it cannot be opened: ELOOP if it is a link itself, ENOTDIR if its directory is one.
    """
    with _directory_of(top, name) as (directory, last):
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)


def remove_inside(top: Path, name: str) -> None:
    """Remove a file *name*, `directory/file`, in a directory that can be trusted; no link is followed.

    Raises:
        OSError: it cannot be removed.
    """
    with _directory_of(top, name) as (directory, last):
        os.unlink(last, dir_fd=directory)


@contextlib.contextmanager
def _directory_of(top: Path, name: str) -> Iterator[tuple[int, str]]:
    above, _, last = name.rpartition("/")
    directory = os.open(top / above, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield directory, last
    finally:
        os.close(directory)
