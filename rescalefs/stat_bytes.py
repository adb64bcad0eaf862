"""`struct stat` as it lies in memory, written in one step: attributes go to the kernel by the hundred thousand.

Where the fields lie is taken from the binding's own definition for this machine.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from operator import itemgetter

_NS = 1_000_000_000
_BLOCK_BYTES = 512  # the unit of st_blocks
_CODES = {2: "H", 4: "I", 8: "Q"}
_TIME_CODES = {4: "i", 8: "q"}  # a file may be older than 1970
# The fields that are written, and which of the values of `StatBytes.__call__` go there.
_FIELDS = {
    "st_ino": 0,
    "st_mode": 1,
    "st_nlink": 2,
    "st_uid": 3,
    "st_gid": 4,
    "st_size": 5,
    "st_blocks": 6,
}
_TIMES = ("st_atimespec", "st_mtimespec", "st_ctimespec")
_SECONDS, _NANOSECONDS = 7, 8


class StatBytes:
    """Makes the bytes of a `struct stat` for everything that belongs to the user of this process. Threads: any."""

    def __init__(self, c_stat: type[ctypes.Structure]) -> None:
        places: list[tuple[int, int, str, int]] = []  # offset, size, how it is written, which value
        for name, value in _FIELDS.items():
            field = getattr(c_stat, name)
            places.append((field.offset, field.size, _CODES[field.size], value))
        for name in _TIMES:
            start, kind = getattr(c_stat, name).offset, type(getattr(c_stat(), name))
            for part, value in (("tv_sec", _SECONDS), ("tv_nsec", _NANOSECONDS)):
                field = getattr(kind, part)
                places.append((start + field.offset, field.size, _TIME_CODES[field.size], value))
        self.size = ctypes.sizeof(c_stat)
        self._pack = self._packer(places)
        self._in_order = itemgetter(*(value for *_, value in sorted(places)))
        pack_kind = self._packer(places[:2])
        is_inode_first = places[0] < places[1]
        # The bytes of an inode number and a mode, with nothing but these: what a plain listing tells.
        self.kind: Callable[[int, int], bytes] = (
            pack_kind if is_inode_first else lambda inode, mode: pack_kind(mode, inode)
        )
        self._owner = (os.getuid(), os.getgid())

    def _packer(self, places: list[tuple[int, int, str, int]]) -> Callable[..., bytes]:
        """Return what makes the bytes of the fields at *places* from their values in the order of these."""
        form, end = "=", 0
        for offset, size, code, _ in sorted(places):
            form += f"{offset - end}x{code}"
            end = offset + size
        return struct.Struct(f"{form}{self.size - end}x").pack

    def __call__(self, inode: int, mode: int, size: int, modified_ns: int) -> bytes:
        """Return the bytes; all three times are the one that is known."""
        uid, gid = self._owner
        seconds, ns = divmod(modified_ns, _NS)
        # One link, for a directory too: "not counted", so that find looks into all of them.
        values = (inode, mode, 1, uid, gid, size, -(-size // _BLOCK_BYTES), seconds, ns)
        return self._pack(*self._in_order(values))
