"""Two ways to drive a mount by the same calls: in process, and through the kernel.

    with InProcess(emulator, directory, clock, cache_bytes=1 << 30) as mount:
        mount.names("/jobs")
        number = mount.open("/jobs/AbCdE/runs/1/log")

Every call raises OSError with the errno that a program sees.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rescalefs.config import Settings
from rescalefs.credentials import Account, Key
from rescalefs.emulator.clock import ManualClock
from rescalefs.emulator.server import Emulator
from rescalefs.mount import Mount
from rescalefs.operations import Gate, Operations
from tests.conftest import Mounted

# What is waited for ends within milliseconds; who waits so long has found something that never ends.
END_S = 20.0
# Of a mount that nobody uses: pools, what libfuse keeps; kept connections, open segments, spools for who looks again.
_MOST_THREADS = 120
_MOST_DESCRIPTORS = 300


class Driver(Protocol):
    """What a history does to a mount."""

    slack_s: float  # what the kernel adds to the age of attributes
    is_timed: bool  # the clock is moved by hand
    cache: Path
    cache_bytes: int

    def now(self) -> float: ...
    def tick(self) -> None: ...
    def settle(self) -> None: ...
    def wait(self, seconds: float) -> None: ...
    def names(self, path: str) -> dict[str, int]: ...
    def stat(self, path: str) -> tuple[int, int, int]: ...
    def link(self, path: str) -> str: ...
    def xattr(self, path: str, name: str) -> str: ...
    def open(self, path: str, flags: int = os.O_RDONLY) -> int: ...
    def read(self, number: int, offset: int, size: int) -> bytes: ...
    def write(self, number: int, data: bytes) -> None: ...
    def close(self, number: int) -> None: ...
    def restart(self, *, is_crash: bool, between: Any = None) -> None: ...
    def wipe(self) -> None: ...
    def cached_bytes(self) -> int: ...


@dataclass
class FileInfo:
    """What the bindings pass for an open file."""

    flags: int
    fh: int = 0
    direct_io: int = 0
    keep_cache: int = 0


class InProcess:
    """All that `mount.Mount` wires together, behind the gate, without FUSE; its time is *clock*'s."""

    slack_s = 0.0
    is_timed = True

    def __init__(
        self, emulator: Emulator, directory: Path, clock: ManualClock, *, cache_bytes: int, deadline_s: float = 15.0
    ) -> None:
        self._emulator = emulator
        self._clock = clock
        self.cache = directory / "cache"
        self.cache_bytes = cache_bytes
        self._settings = Settings(
            directory,
            self.cache,
            cache_bytes,
            metadata_deadline_s=deadline_s,
            data_deadline_s=deadline_s,
        )
        self._threads = set(threading.enumerate())
        self._descriptors = _descriptors()
        for handler in logging.getLogger().handlers:
            handler.addFilter(_as_text)
        self._start()

    def _start(self) -> None:
        self.cache.mkdir(mode=0o700, exist_ok=True)
        self._open: dict[int, tuple[str, FileInfo]] = {}
        key = Key(lambda: self._emulator.key, "a test")
        clock = self._clock
        self._mount = Mount(
            self._settings,
            Account(self._emulator.origin, key),
            "someone",
            clock=clock.now,
            wall_clock=clock.now,
            sleep=clock.advance,
            wait=lambda _woken, seconds: clock.advance(seconds),
        )
        self.operations = Operations(
            self._mount.namespace,
            self._mount.kernel,
            self.cache,
            metadata_deadline_s=self._settings.metadata_deadline_s,
            data_deadline_s=self._settings.data_deadline_s,
            on_start=self._mount.start,
            on_stop=self._mount.close,
        )
        self._gate: Any = Gate(self.operations)
        self._gate.init("/")

    def now(self) -> float:
        """Return the time."""
        return self._clock.now()

    def wait(self, seconds: float) -> None:
        """Let time pass, once nothing is under way that would find itself late."""
        self.settle()
        self._clock.advance(seconds)

    def tick(self) -> None:
        """Let no two things happen at one moment."""
        self._clock.advance(0.001)

    def settle(self) -> None:
        """Wait until no request is under way."""
        give_up_at = time.monotonic() + END_S
        quiet = 0
        while quiet < 2:
            assert time.monotonic() < give_up_at, "requests that never end"
            quiet = 0 if self._emulator.under_way else quiet + 1
            time.sleep(0.0005)

    def names(self, path: str) -> dict[str, int]:
        """List a directory: kinds by name."""
        number = self._gate.opendir(path)
        entries: list[Any] = []
        try:
            while lines := self._gate.readdir(path, number, len(entries), has_attributes=True):
                entries += lines
        finally:
            self._gate.releasedir(path, number)
        kinds = {os.fsdecode(name): stat.S_IFMT(mode) for name, _inode, mode, _size, _time in entries}
        assert len(kinds) == len(entries), "a name is listed twice"
        return {name: kind for name, kind in kinds.items() if name not in (".", "..")}

    def stat(self, path: str) -> tuple[int, int, int]:
        """Return mode, size and time of change."""
        _inode, mode, size, modified_ns = self._gate.getattr(path)
        return mode, size, modified_ns

    def link(self, path: str) -> str:
        """Read a link."""
        target: str = self._gate.readlink(path)
        return target

    def xattr(self, path: str, name: str) -> str:
        """Read an extended attribute."""
        value: bytes = self._gate.getxattr(path, name)
        return value.decode()

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """Open a file."""
        info = FileInfo(flags)
        self._gate.open(path, info)
        self._open[info.fh] = path, info
        return info.fh

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Read bytes."""
        path, info = self._open[number]
        data: bytes = self._gate.read(path, size, offset, info)
        return data

    def write(self, number: int, data: bytes) -> None:
        """Write bytes."""
        path, info = self._open[number]
        self._gate.write(path, data, 0, info)

    def close(self, number: int) -> None:
        """Close a file, unless it was one of a process that is gone."""
        if number in self._open:
            self._gate.release(*self._open.pop(number))

    def restart(self, *, is_crash: bool, between: Any = None) -> None:
        """Begin again on the same cache; after a crash nothing was closed, and the old process is still dying."""
        mount = self._mount
        if not is_crash:
            self._end()
        if between is not None:
            between()
        self._start()
        mount.close()

    def _end(self) -> None:
        for number in list(self._open):
            self.close(number)
        self._gate.destroy("/")

    def wipe(self) -> None:
        """Take the cache directory away."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def cached_bytes(self) -> int:
        """Return how much the cached segments take of the disk's limit."""
        return sum(path.stat().st_size for path in (self.cache / "v2").glob("*/*"))

    def finish(self) -> None:
        """Close everything, and see that nothing stays: no handle, no thread, no connection, no file."""
        for number in list(self._open):
            self.close(number)
        operations: Any = self.operations
        left = {**operations._handles, **operations._listings, **operations._direct, **operations._sharing}
        assert not left, f"handles are left: {left}"
        self.settle()
        self._gate.destroy("/")
        temporary = list(self.cache.glob("**/.new.*"))
        assert not temporary, f"temporary files are left: {temporary}"
        del self._gate, self.operations, self._mount, operations
        _wait_until(lambda: not (set(_threads()) - self._threads), lambda: f"threads: {_threads()}")
        gc.collect()
        _wait_until(lambda: len(_descriptors()) <= len(self._descriptors), lambda: f"descriptors: {_descriptors()}")


def _as_text(record: logging.LogRecord) -> bool:
    """Let a record be text alone: pytest keeps them all, and an error in one keeps the frames that it went through."""
    record.msg, record.args = record.getMessage(), None
    if record.exc_info:
        record.exc_text, record.exc_info = logging.Formatter().formatException(record.exc_info), None
    return True


def _threads() -> list[threading.Thread]:
    """Return all threads but those of the emulator's own pool."""
    return [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _wait_until(condition: Any, message: Any) -> None:
    give_up_at = time.monotonic() + END_S
    while not condition():
        assert time.monotonic() < give_up_at, f"something is left: {message()}"
        time.sleep(0.001)


class ThroughKernel:
    """A real mount, by the calls that every program makes."""

    slack_s = 1.5  # attributes live a second in the kernel
    is_timed = False

    def __init__(self, mounted: Mounted, cache_bytes: int) -> None:
        self._mounted = mounted
        self.cache = mounted.cache
        self.cache_bytes = cache_bytes
        self._left = self._temporary()

    def _temporary(self) -> set[Path]:
        return {path for pattern in (".new.*", "tmp*") for path in self.cache.rglob(pattern)}

    def _path(self, path: str) -> str:
        return f"{self._mounted.path}{path}"

    def now(self) -> float:
        """Return the time."""
        return time.time()

    def wait(self, seconds: float) -> None:
        """Let a moment pass."""
        time.sleep(min(seconds, 0.1))

    def tick(self) -> None:
        """Do nothing: the time goes on."""

    def settle(self) -> None:
        """Wait until no request is under way."""
        give_up_at = time.monotonic() + END_S
        while self._mounted.emulator.under_way:
            assert time.monotonic() < give_up_at, "requests that never end"
            time.sleep(0.001)

    def names(self, path: str) -> dict[str, int]:
        """List a directory: kinds by name."""
        with os.scandir(self._path(path)) as entries:
            found = list(entries)
        assert len({entry.name for entry in found}) == len(found), "a name is listed twice"
        kinds = {"d": stat.S_IFDIR, "l": stat.S_IFLNK, "f": stat.S_IFREG}
        return {
            entry.name: kinds["d" if entry.is_dir(follow_symlinks=False) else "l" if entry.is_symlink() else "f"]
            for entry in found
        }

    def stat(self, path: str) -> tuple[int, int, int]:
        """Return mode, size and time of change."""
        found = os.lstat(self._path(path))
        return found.st_mode, found.st_size, found.st_mtime_ns

    def link(self, path: str) -> str:
        """Read a link."""
        return os.readlink(self._path(path))

    def xattr(self, path: str, name: str) -> str:
        """Read an extended attribute."""
        return os.getxattr(self._path(path), name).decode()

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """Open a file."""
        return os.open(self._path(path), flags)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Read bytes."""
        return os.pread(number, size, offset)

    def write(self, number: int, data: bytes) -> None:
        """Write bytes."""
        os.pwrite(number, data, 0)

    def close(self, number: int) -> None:
        """Close a file."""
        with contextlib.suppress(OSError):  # of a mount that was killed
            os.close(number)

    def restart(self, *, is_crash: bool, between: Any = None) -> None:
        """End the process, in order or by kill -9, and mount again."""
        mounted = self._mounted
        assert mounted.process is not None
        if is_crash:
            mounted.process.kill()
            mounted.process.wait()
            self._left |= self._temporary()  # a later mount removes what this one was writing
        else:
            assert mounted.unmount() == 0
        mounted.clean_up()
        if between is not None:
            between()
        mounted.mount()

    def wipe(self) -> None:
        """Take the cache directory away."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def cached_bytes(self) -> int:
        """Return how much the cached segments take of the disk's limit."""
        return sum(path.stat().st_size for path in (self.cache / "v2").glob("*/*"))

    def finish(self) -> None:
        """See that nothing stays in the process that the kernel asked for: no handle, no operation, no request."""
        self.settle()
        held = ("files", "directories", "operations")  # the kernel tells of the end of a handle when it comes to it
        _wait_until(lambda: not any(self._mounted.state()[each] for each in held), self._mounted.state)
        state = self._mounted.state()
        assert state["threads"] <= _MOST_THREADS, state
        assert state["descriptors"] <= _MOST_DESCRIPTORS, state
        temporary = self._temporary() - self._left
        assert not temporary, f"temporary files are left: {temporary}"
