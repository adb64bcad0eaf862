"""The file system operations as FUSE asks for them: paths and handles in, values and errno out.

The only module that knows errno. `Operations` raises rescalefs errors; `Gate` stands around every operation, turns
them into an OSError with the errno of the table below, and leaves one log line for each failure. No other exception
can leave it: one that escapes into a FUSE binding becomes a short file or a garbage errno there.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from cachetools import LRUCache

from rescalefs import errors
from rescalefs.kernel import Calls, KernelMemory
from rescalefs.looks import Looks, Told
from rescalefs.names import MAX_NAME_BYTES
from rescalefs.namespace import Namespace
from rescalefs.nodes import Directory, File, Handle, Link, Node
from rescalefs.open_directory import Dirent, OpenDirectory, inode_of
from rescalefs.timing import within

log = logging.getLogger(__name__)

# The nearest base class of an error decides. EIO for all that failed on the way to the bytes.
ERRNO: Mapping[type[BaseException], int] = {
    errors.NotFound: errno.ENOENT,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.ReadOnly: errno.EROFS,
    errors.AccessDenied: errno.EACCES,
    errors.BadCommand: errno.EINVAL,
    errors.NotPossibleNow: errno.EPERM,
    errors.Busy: errno.EBUSY,
    errors.Stale: errno.ESTALE,
    errors.DeadlineExceeded: errno.ETIMEDOUT,
    errors.NoAttribute: errno.ENODATA,
    errors.NotSupported: errno.EOPNOTSUPP,
    errors.RescaleError: errno.EIO,
}
# How loud a failure is. Tools ask for what is not there all day; a command refused is its user's to know, and the
# shell has said so; anything else means that a program saw an error where it expected data.
_LEVELS: Mapping[type[BaseException], int] = {
    errors.NotFound: logging.DEBUG,
    errors.NameTooLong: logging.DEBUG,
    errors.NotADirectory: logging.DEBUG,
    errors.IsADirectory: logging.DEBUG,
    errors.NoAttribute: logging.DEBUG,
    errors.NotSupported: logging.DEBUG,
    errors.Repeated: logging.DEBUG,
    errors.Replaced: logging.DEBUG,
    errors.ReadOnly: logging.DEBUG,
    errors.BadCommand: logging.INFO,
    errors.NotPossibleNow: logging.INFO,
    errors.Busy: logging.INFO,
    errors.Offline: logging.DEBUG,  # one line was written when the network went, or the API
    errors.KeyRefused: logging.DEBUG,  # one line a minute is written by the key
    errors.RescaleError: logging.ERROR,
}

# Reads that may wait at once; more of them are refused after a wait, so that threads are left for everything else. Each
# takes 33 KiB while it waits.
MAX_PARKED_READS = 1024
# Nodes whose last opened content is remembered, for the page cache rule.
_MAX_OPENED = 100_000
XATTR_PREFIX = "user.rescale."


def errno_of(error: BaseException) -> int:
    """Return the errno for *error*: that of its nearest base class in `ERRNO`, else EIO."""
    if isinstance(error, errors.Repeated):
        return errno_of(error.first)
    return next((ERRNO[kind] for kind in type(error).__mro__ if kind in ERRNO), errno.EIO)


# What stat tells: inode number, mode, size in bytes, time in nanoseconds since the epoch.
Stat = tuple[int, int, int, int]


class Operations:
    """What the kernel may ask. Threads: any; FUSE calls it on many at once.

    With `raw_fi`, handles travel in the binding's file info, whose `fh`, `direct_io` and `keep_cache` are set here.
    """

    use_ns = True  # times are whole nanoseconds, for both bindings

    def __init__(
        self,
        namespace: Namespace,
        kernel: KernelMemory,
        cache_directory: Path,
        *,
        metadata_deadline_s: float,
        data_deadline_s: float,
        counts: Counter[str] | None = None,
        on_start: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._namespace = namespace
        self._kernel = kernel
        self._looks = Looks()
        self._cache_directory = cache_directory
        self._metadata_deadline_s = metadata_deadline_s
        self._data_deadline_s = data_deadline_s
        self.counts = Counter() if counts is None else counts  # of operations, by name
        self._on_start = on_start
        self._on_stop = on_stop
        self._calls: Calls | None = None  # set once, when the library is there
        self._parked = threading.BoundedSemaphore(MAX_PARKED_READS)
        self._lock = threading.Lock()  # guards the fields below; nothing but dictionary access is done under it
        self._numbers = count(1)
        self._handles: dict[int, Handle] = {}
        self._files: dict[int, tuple[str, File]] = {}  # their paths, and what they were opened from
        self._direct: dict[int, str] = {}  # the paths of those that are direct
        self._paged: dict[int, str] = {}  # the paths of those that share the kernel's pages of a path
        self._sharing: dict[str, tuple[Handle, ...]] = {}  # the same handles by path
        self._listings: dict[int, OpenDirectory] = {}
        self._opened: LRUCache[str, str] = LRUCache(_MAX_OPENED)

    def deadline_s(self, name: str) -> float:
        """Return how long the kernel is kept waiting for an operation, whatever it has to wait for."""
        return self._data_deadline_s if name in ("read", "readinto") else self._metadata_deadline_s

    # ---- life ----

    def connect(self, calls: Calls) -> None:
        """The library is there, and can tell the kernel what to forget."""
        self._kernel.start(calls, self._paths_in_use)
        self._calls = calls

    def may_go_on(self) -> bool:
        """Tell whether who waits for this thread's operation still does: nobody has killed or interrupted him."""
        return self._calls is None or not self._calls.is_interrupted()

    def _paths_in_use(self) -> list[str]:
        with self._lock:
            paths = [path for path, _ in self._files.values()]
            return paths + [listing.path or "/" for listing in self._listings.values()]

    def init(self, path: str) -> None:
        """The kernel has connected: make the threads, in the process that stays."""
        self._on_start()

    def destroy(self, path: str) -> None:
        """The mount is gone."""
        self._on_stop()

    # ---- looking ----

    def getattr(self, path: str, fh: object = None) -> Stat:
        """Return what stat tells of a path."""
        generation = self._kernel.generation
        try:
            mode, size, modified_ns, lasts = self._namespace.attributes(path)
        except errors.FAILURES as error:
            mode, size, modified_ns, lasts = (*self._open_at(path, error).attributes()[:3], False)
        self._check_kind(path, generation)
        if sharing := self._sharing.get(path):
            # The kernel ends reads through its pages at this size: not before the end of what somebody has open.
            longest = max(size, *(handle.size for handle in sharing))
            size, lasts = longest, lasts and longest == size
        if not lasts or generation != self._kernel.generation:
            self._kernel.told(path)
        if stat.S_ISREG(mode):
            self._looks.looked(path)
        return inode_of(path), mode, size, modified_ns

    def readlink(self, path: str) -> str:
        """Return the target of a link."""
        node = self._namespace.node(path)
        if not isinstance(node, Link):
            raise errors.BadCommand(f"{path} is not a link")
        return node.target

    def opendir(self, path: str) -> int:
        """Open a directory, so that what readdir gives is one moment's, complete or an error."""
        generation = self._kernel.generation
        node = self._namespace.node(path)
        self._check_kind(path, generation)
        if not isinstance(node, Directory):
            raise errors.NotADirectory(f"{path} is not a directory")
        found = node.entries()
        entries = found if isinstance(found, Sequence) else list(found)
        with self._lock:
            number = next(self._numbers)
            self._listings[number] = OpenDirectory(path.rstrip("/"), node.attributes(), entries, generation)
        return number

    def readdir(self, path: str, fh: int, offset: int, *, has_attributes: bool) -> list[Dirent]:
        """Return some entries, from number *offset* on, with what stat tells or without; none at the end."""
        with self._lock:
            listing = self._listings[fh]
        told = Told.NAMES
        if has_attributes:
            told = self._looks.told(listing.path, len(listing.entries), is_start=offset == 0)
        return listing.dirents(offset, self._kernel, self._sharing, told)

    def releasedir(self, path: str, fh: int) -> int:
        """Drop an open directory."""
        with self._lock:
            self._listings.pop(fh, None)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        """Tell of the disk that holds the cache, which is what fills up; never asks the network."""
        try:
            disk = os.statvfs(self._cache_directory)
        except OSError:
            disk = os.statvfs("/")
        names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail")
        return {**{name: getattr(disk, name) for name in names}, "f_namemax": MAX_NAME_BYTES}

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """Return one extended attribute; other classes than `user.` are refused from memory."""
        if not name.startswith("user."):
            raise errors.NotSupported(f"no attributes like {name}")
        tellers = self._namespace.node(path).xattrs() if name.startswith(XATTR_PREFIX) else {}
        tell = tellers.get(name[len(XATTR_PREFIX) :])
        if tell is None:
            raise errors.NoAttribute(f"{path} has no {name}")
        return tell().encode(errors="backslashreplace")

    def listxattr(self, path: str) -> list[str]:
        """Return the names of the extended attributes."""
        return [XATTR_PREFIX + name for name in self._namespace.node(path).xattrs()]

    # ---- reading and commanding ----

    def open(self, path: str, fi: Any) -> int:
        """Open a file, and tell the kernel how to cache it."""
        generation = self._kernel.generation
        try:
            file = self._file(self._namespace.node(path), path)
        except errors.FAILURES as error:
            file = self._open_at(path, error)
        self._check_kind(path, generation)
        handle = file.open(fi.flags & os.O_ACCMODE != os.O_RDONLY)
        with self._lock:
            fi.fh = number = next(self._numbers)
            self._handles[number] = handle
            self._files[number] = path, file
            # All who have a path open share the kernel's pages of it; other bytes than theirs must go past these.
            sharing = self._sharing.get(path, ())
            is_shared = any(other.identity != handle.identity for other in sharing)
            # A size that the kernel may have of what was here before would end reads through its page cache too early.
            is_direct = handle.is_direct or is_shared or self._kernel.is_unsure(path)
            if is_direct:
                # A private map of it fills pages all the same, with what it is now.
                self._direct[number] = path
                self._opened.pop(path, None)
            elif handle.identity is not None:
                # Pages in the kernel may stay only if they are of the same bytes: the path may have been a live
                # file, or an older upload.
                is_same = self._opened.get(path) == handle.identity and path not in self._direct.values()
                fi.keep_cache = int(is_same)
                self._opened[path] = handle.identity
                self._paged[number] = path
                self._sharing[path] = (*sharing, handle)
        fi.direct_io = int(is_direct)
        return 0

    def read(self, path: str, size: int, offset: int, fi: Any) -> bytes:
        """Return bytes of an open file, short only at its end."""
        buffer = bytearray(size)
        count = self.readinto(path, memoryview(buffer), offset, fi)
        return bytes(buffer[:count])

    def readinto(self, path: str, buffer: memoryview, offset: int, fi: Any) -> int:
        """Place bytes of an open file in *buffer*, the kernel's own, and return how many; short only at its end."""
        handle = self._handles[fi.fh]
        if not self._parked.acquire(blocking=False) and not self._parked.acquire(timeout=self._metadata_deadline_s):
            raise errors.Unavailable(f"{path}: {MAX_PARKED_READS} reads are waiting already")
        try:
            return handle.readinto(offset, buffer)
        finally:
            self._parked.release()

    def write(self, path: str, data: bytes, offset: int, fi: Any) -> int:
        """Hand a command to a control file. Each write is one command, wherever in the file it goes."""
        self._handles[fi.fh].write(data)
        return len(data)

    def release(self, path: str, fi: Any) -> int:
        """Close a file."""
        with self._lock:
            handle = self._handles.pop(fi.fh, None)
            self._files.pop(fi.fh, None)
            self._opened.pop(self._direct.pop(fi.fh, ""), None)
            if (paged := self._paged.pop(fi.fh, None)) is not None:
                self._sharing[paged] = tuple(other for other in self._sharing[paged] if other is not handle)
                if not self._sharing[paged]:
                    del self._sharing[paged]
        if handle is not None:
            handle.close()
        return 0

    def truncate(self, path: str, length: int, fh: object = None) -> int:
        """Accept the truncation that a shell sends before a command; refuse any other."""
        self._file(self._namespace.node(path), path).truncate()
        return 0

    def _check_kind(self, path: str, generation: int) -> None:
        """Let the kernel look the path up anew, as it does when it hears that what it has is stale."""
        if self._kernel.is_replaced(path, generation):
            raise errors.Replaced(f"{path} is of another kind now")

    def _open_at(self, path: str, error: errors.RescaleError) -> File:
        """Return what somebody has open where Rescale fails to tell what is there, if it stays; else raise *error*."""
        with self._lock:
            for where, file in self._files.values():
                if where == path and file.stays:
                    return file
        raise error

    @staticmethod
    def _file(node: Node, path: str) -> File:
        if isinstance(node, Directory):
            raise errors.IsADirectory(f"{path} is a directory")
        if not isinstance(node, File):
            raise errors.BadCommand(f"{path} cannot be opened")
        return node

    def handles(self) -> Mapping[str, int]:
        """Return how many files and directories are open."""
        with self._lock:
            return {"open.files": len(self._handles), "open.directories": len(self._listings)}

    # ---- what a mount of results refuses, all in the same way ----

    def _refuse(self, *_: object) -> NoReturn:
        raise errors.ReadOnly("results cannot be changed")

    create = mkdir = mknod = symlink = link = unlink = rmdir = rename = _refuse
    chmod = chown = utimens = setxattr = removexattr = fallocate = _refuse


# What the bindings look for. Each one that is absent saves the kernel a question: without `flush` and `access`
# an open takes 75 instead of 115 us. Locks are left to the kernel, which keeps them locally.
_OWN = ("use_ns", "readinto", "deadline_s", "connect", "handles", "may_go_on")
OPERATIONS = tuple(name for name in vars(Operations) if not name.startswith("_") and name not in _OWN)


class Gate:
    """Every operation, wrapped. What the bindings are given as their operations object."""

    use_ns = True

    def __init__(self, operations: Operations) -> None:
        for name in (*OPERATIONS, "readinto"):
            if not hasattr(type(self), name):
                operation, deadline_s = getattr(operations, name), operations.deadline_s(name)
                run = guarded(name, operation, deadline_s, operations.counts, operations.may_go_on)
                setattr(self, name, run)


def guarded(
    name: str,
    operation: Callable[..., Any],
    deadline_s: float,
    counts: Counter[str] | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
) -> Callable[..., Any]:
    """Wrap one operation so that nothing but an OSError with a real errno can leave it, and that in time.

    *counts* is how often each was asked, about: threads may count at once.
    """
    counts = Counter() if counts is None else counts

    def run(*args: Any, **keywords: Any) -> Any:
        began = time.monotonic()
        counts[name] += 1
        try:
            with within(deadline_s, may_go_on):
                return operation(*args, **keywords)
        except BaseException as error:  # whatever it is, the binding must not see it
            code = errno_of(error)
            seconds = time.monotonic() - began
            where = args[0] if args and isinstance(args[0], str) else ""
            level = next((_LEVELS[kind] for kind in type(error).__mro__ if kind in _LEVELS), None)
            if level is None:
                log.exception("%s %s after %.1f s: unforeseen", name, where, seconds)
            else:
                log.log(level, "%s %s after %.1f s: %s (%s)", name, where, seconds, error, errno.errorcode[code])
            raise OSError(code, os.strerror(code)) from None

    run.__name__ = name
    return run
