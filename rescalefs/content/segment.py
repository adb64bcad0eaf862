"""One file of the disk cache: a part of one content, in blocks that each carry a checksum.

    byte 0      mark, identity, number of the segment, size of the whole content
    byte 64     1 if the whole content matched its checksum with these blocks
    byte 128    a checksum (xxh3) for each block that is here, zeros for the others
    byte 4096   the blocks

What makes it safe, whatever ends the process and whenever:

- A block counts from the moment that its checksum is written, which is after its bytes. The checksum is looked at when
  a process touches the block first. A damaged, vanished or foreign file is a miss.
- Only one process writes a segment, the one that holds its `flock`; the others read what appears.
- A segment is removed by unlink, so that an open descriptor stays readable; it closes with the last reference.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
from pathlib import Path

import xxhash

log = logging.getLogger(__name__)

# What is fetched, checked and noted as one: a small random read costs little more than itself.
BLOCK_BYTES = 64 << 10
# What is opened and evicted as one: few files for large contents, little lost by an eviction.
SEGMENT_BYTES = 8 << 20
SEGMENT_BLOCKS = SEGMENT_BYTES // BLOCK_BYTES
DATA_AT = 4096  # the blocks begin at a page

_HEADER = struct.Struct("<8s40sQQ")  # mark, identity, number, size of the whole content
_MARK = b"rfs-seg2"
_VERIFIED_AT = _HEADER.size  # one byte: these blocks were part of a content that matched its checksum
_SUMS_AT = 128
_SUM_BYTES = 8
_NO_SUM = bytes(_SUM_BYTES)

# The states of a block.
MISSING, UNCHECKED, PRESENT = 0, 1, 2
_ALL_PRESENT = bytes([PRESENT]) * SEGMENT_BLOCKS


class Segment:
    """Part of a content on disk: blocks [number * SEGMENT_BLOCKS, ...). Threads: any.

    `blocks` has one state a block. A slice of it is compared without a lock: states only go up while bytes stay.
    """

    def __init__(self, name: str, descriptor: int, header: bytes, size: int, *, is_writer: bool) -> None:
        self.name = name
        self.size = size  # bytes of content that belong into this segment
        self.blocks = bytearray(-(-size // BLOCK_BYTES))
        self.is_evicted = False
        self.noted_at = 0.0
        self.noted_on_disk_at = 0.0
        self._descriptor = descriptor
        self._header = header
        self._is_writer = is_writer
        self._sums = b""  # of the blocks that were here when it was looked at
        self._lost: set[int] = set()  # blocks that proved to be damaged, until they are written again
        self.look()

    def __del__(self) -> None:
        os.close(self._descriptor)

    def look(self) -> None:
        """Learn which blocks another process has written meanwhile."""
        raw = os.pread(self._descriptor, _SUMS_AT + _SUM_BYTES * len(self.blocks), 0)
        if raw[: len(self._header)] != self._header:
            return  # new, or being made by another process
        self._sums = raw[_SUMS_AT:]
        for block in range(len(self._sums) // _SUM_BYTES):
            if self.blocks[block] == MISSING and block not in self._lost and self._sum(block) != _NO_SUM:
                self.blocks[block] = UNCHECKED

    def readinto(self, start: int, buffer: memoryview) -> bool:
        """Fill *buffer* with the bytes from *start* on; False if not all of them are here."""
        end = start + len(buffer)
        first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        are_checked = self.blocks[first:last] == _ALL_PRESENT[: last - first]
        is_whole = start % BLOCK_BYTES == 0 and (end % BLOCK_BYTES == 0 or end == self.size)
        if not are_checked and not (self._are_here(first, last) if is_whole else self._check(first, last)):
            return False
        try:
            count = os.preadv(self._descriptor, [buffer], DATA_AT + start)
        except OSError as error:
            log.warning("cached segment %s cannot be read: %s", self.name, error)
            count = 0
        if count != len(buffer):
            self._lose(first, last)  # somebody has cut the file
            return False
        return are_checked or not is_whole or self._compare(first, last, buffer)

    def read(self, start: int, end: int) -> bytes | None:
        """Return bytes [start, end) of the segment, None if not all of them are here."""
        buffer = bytearray(end - start)
        return bytes(buffer) if self.readinto(start, memoryview(buffer)) else None

    def write(self, first: int, data: memoryview) -> bool:
        """Keep whole blocks from number *first* on; False if another process writes this segment.

        Raises:
            OSError: the disk is full or broken.
        """
        if not self._is_writer:
            return False
        assert len(data) % BLOCK_BYTES == 0 or first * BLOCK_BYTES + len(data) == self.size
        sums = bytearray()
        for start in range(0, len(data), BLOCK_BYTES):
            sums += xxhash.xxh3_64_digest(data[start : start + BLOCK_BYTES])
        if self._is_marked():
            os.pwrite(self._descriptor, b"\0", _VERIFIED_AT)  # it was verified with other bytes
        _write_all(self._descriptor, data, DATA_AT + first * BLOCK_BYTES)
        _write_all(self._descriptor, memoryview(sums), _SUMS_AT + first * _SUM_BYTES)
        last = first + len(sums) // _SUM_BYTES
        self._lost.difference_update(range(first, last))
        self.blocks[first:last] = _ALL_PRESENT[: last - first]
        return True

    @property
    def is_verified(self) -> bool:
        """Whether all of this segment was part of a content that matched its checksum."""
        return self._is_marked() and MISSING not in self.blocks

    def mark_verified(self) -> None:
        """Remember that the content matched its checksum with the blocks that are here."""
        os.pwrite(self._descriptor, b"\1", _VERIFIED_AT)

    def note_use_on_disk(self) -> None:
        """Tell the other processes, and the next one, that this segment was used now."""
        with contextlib.suppress(OSError):
            os.utime(self._descriptor)
            self.is_evicted = self.is_evicted or os.fstat(self._descriptor).st_nlink == 0

    def _is_marked(self) -> bool:
        return os.pread(self._descriptor, 1, _VERIFIED_AT) == b"\1"

    def _are_here(self, first: int, last: int) -> bool:
        """Tell whether these blocks are here, checked or not."""
        if MISSING in self.blocks[first:last] and not self._is_writer:
            self.look()
        return MISSING not in self.blocks[first:last]

    def _check(self, first: int, last: int) -> bool:
        """Tell whether these blocks are here, comparing those not yet touched with their checksums."""
        if not self._are_here(first, last):
            return False
        for block in range(first, last):
            if self.blocks[block] == UNCHECKED:
                start = block * BLOCK_BYTES
                data = os.pread(self._descriptor, min(BLOCK_BYTES, self.size - start), DATA_AT + start)
                if not self._compare(block, block + 1, memoryview(data)):
                    return False
        return True

    def _compare(self, first: int, last: int, data: memoryview) -> bool:
        """Compare blocks that were read for the first time with their checksums."""
        for block in range(first, last):
            at = (block - first) * BLOCK_BYTES
            if self.blocks[block] == UNCHECKED:
                if xxhash.xxh3_64_digest(data[at : at + BLOCK_BYTES]) != self._sum(block):
                    self._lose(block, block + 1)
                    return False
                self.blocks[block] = PRESENT
        return MISSING not in self.blocks[first:last]

    def _sum(self, block: int) -> bytes:
        return self._sums[block * _SUM_BYTES : (block + 1) * _SUM_BYTES]

    def _lose(self, first: int, last: int) -> None:
        log.warning("cached segment %s is damaged in block %d; fetching it again", self.name, first)
        self._lost.update(range(first, last))
        self.blocks[first:last] = bytes(last - first)


def segments_of(content_bytes: int) -> int:
    """Return the number of segments of a content."""
    return -(-content_bytes // SEGMENT_BYTES)


def segment_name(identity: str, number: int) -> str:
    """Return where a segment is, below the directory of the cache."""
    return f"{identity[:2]}/{identity}.{number}"


def open_segment(root: Path, identity: str, number: int, content_bytes: int, *, may_make: bool) -> Segment | None:
    """Open a segment's file, None if there is none; one that holds something else is removed.

    Raises:
        OSError: it cannot be made.
    """
    name = segment_name(identity, number)
    path = root / name
    header = _HEADER.pack(_MARK, identity.encode(), number, content_bytes)
    size = min(SEGMENT_BYTES, content_bytes - number * SEGMENT_BYTES)
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if may_make else 0)
    for _ in range(2):
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            if not may_make:
                return None
            path.parent.mkdir(mode=0o700, exist_ok=True)
            continue
        except OSError:
            if may_make:
                raise
            return None
        is_writer = _lock(descriptor)
        there = os.pread(descriptor, len(header), 0)
        if not there and is_writer and may_make:
            _write_all(descriptor, memoryview(header), 0)
        elif there != header and is_writer:  # cut short, or foreign
            os.close(descriptor)
            path.unlink(missing_ok=True)
            continue
        return Segment(name, descriptor, header, size, is_writer=is_writer)
    return None


def _lock(descriptor: int) -> bool:
    """Try to become the one process that writes a segment, until the descriptor is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: two writers write the same bytes
    return True


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
