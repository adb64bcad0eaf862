"""Texts and tables kept on disk: each whole in a file of its own, checksummed, replaced at once. Shared by processes.

    <directory>/v1/<kind>/<hash of the key>      magic, checksum of the rest, length of the key, key, body

A file is written under another name, synced, and renamed, so a crash leaves the old one or the new one.
What is damaged, of another version, of another user, or of another key counts as absent. No room means nothing is
kept; never an error. It knows nothing of jobs, HTTP or FUSE.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import xxhash

from rescalefs.private import make_inside, open_inside
from rescalefs.timing import Clock

log = logging.getLogger(__name__)

# A million files of finished runs take about 150 MB.
DEFAULT_LIMIT_BYTES = 2 << 30
_MAGIC = b"rescalefs kept 1"
_SUM_AT = len(_MAGIC)
_KEY_AT = _SUM_AT + 16 + 4  # after the checksum and the length of the key
# A temporary file of this age is what a crash left.
_LEFT_AFTER_S = 3600.0
_TEMPORARY = ".new."
# The directory is looked at for what is too much when this share of the limit was written.
_LOOK_SHARE = 8


class Found(NamedTuple):
    """Something kept, and when it was last confirmed (seconds since the epoch)."""

    body: memoryview
    confirmed_at_s: float


class Kept:
    """Keeps bodies by kind and key. Threads: any. With no directory it keeps nothing."""

    def __init__(
        self, directory: Path | None, limit_bytes: int = DEFAULT_LIMIT_BYTES, *, wall_clock: Clock = time.time
    ) -> None:
        self._root = None if directory is None else directory / "v1"
        self._limit_bytes = limit_bytes
        self.wall_clock = wall_clock
        self._lock = threading.Lock()  # guards the two fields below; no file is touched under it
        self._written_bytes = limit_bytes  # since the directory was last looked at: the first write looks
        self._has_warned = False

    def read(self, kind: str, key: tuple[str, ...]) -> Found | None:
        """Return what is kept under *key*, None if nothing is, or nothing whole."""
        if self._root is None:
            return None
        name = _key_bytes(key)
        try:
            # Not blocking: what lies there may be a pipe.
            descriptor = open_inside(self._root, f"{kind}/{_file_name(name)}", os.O_RDONLY | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                info = os.fstat(file.fileno())
                data = memoryview(file.read())
        except OSError:
            return None
        end = _KEY_AT + len(name)
        expected = _MAGIC + xxhash.xxh3_128_digest(data[_SUM_AT + 16 :])
        if info.st_uid != os.geteuid() or data[: len(expected)] != expected:
            log.warning("%s is damaged or not ours; it is not used", self._path(kind, name))
            return None
        if data[_SUM_AT + 16 : end] != len(name).to_bytes(4, "little") + name:
            return None
        return Found(data[end:], info.st_mtime)

    def write(self, kind: str, key: tuple[str, ...], body: bytes, confirmed_at_s: float | None = None) -> None:
        """Keep *body*, confirmed at that time or now; if it is there already, note that it was confirmed."""
        if self._root is None:
            return
        name = _key_bytes(key)
        path = self._path(kind, name)
        known = self.read(kind, key)
        at_s = self.wall_clock() if confirmed_at_s is None else confirmed_at_s
        try:
            if known is not None and known.body == body:
                os.utime(path, (at_s, at_s))
                return
            self._write(path, name, body, at_s)
        except OSError as error:
            with self._lock:
                is_first, self._has_warned = not self._has_warned, True
            if is_first:
                log.warning("listings cannot be kept in %s: %s", self._root, error)
        self._make_room(len(body))

    def _write(self, path: Path, name: bytes, body: bytes, at_s: float) -> None:
        for directory in (path.parents[2], path.parents[1], path.parent):
            make_inside(directory)
        rest = len(name).to_bytes(4, "little") + name
        checksum = xxhash.xxh3_128(rest)
        checksum.update(body)
        descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)  # 0600
        try:
            with open(descriptor, "wb") as file:
                file.writelines((_MAGIC, checksum.digest(), rest, body))
                file.flush()
                os.fsync(file.fileno())  # before the name: else a crash may leave the name without its bytes
            os.utime(temporary, (at_s, at_s))
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _make_room(self, written_bytes: int) -> None:
        """Remove what was confirmed longest ago, where all together is more than the limit."""
        with self._lock:
            self._written_bytes += written_bytes
            if self._written_bytes < self._limit_bytes // _LOOK_SHARE:
                return
            self._written_bytes = 0
        assert self._root is not None
        files = []
        for path in self._root.glob("*/*"):
            with contextlib.suppress(OSError):  # another process may have replaced or removed it
                info = path.stat()
                if path.name.startswith(_TEMPORARY):
                    if self.wall_clock() - info.st_mtime > _LEFT_AFTER_S:
                        path.unlink()
                else:
                    files.append((info.st_mtime_ns, info.st_size, path))
        excess_bytes = sum(size for _, size, _ in files) - self._limit_bytes
        for _, size, path in sorted(files):
            if excess_bytes <= 0:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            excess_bytes -= size

    def _path(self, kind: str, name: bytes) -> Path:
        assert self._root is not None
        return self._root / kind / _file_name(name)


def _file_name(name: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(name)


def _key_bytes(key: tuple[str, ...]) -> bytes:
    return json.dumps(key).encode()
