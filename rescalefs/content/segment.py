"""One file of the disk cache: a part of one content, in blocks that each carry a checksum.

    byte 0      mark, identity, number of the segment, size of the whole content
    byte 64     `verified` if the whole content matched its checksum with these blocks
    byte 128    a checksum (xxh3) for each block that is here, zeros for the others
    byte 4096   the blocks

What makes it safe, whatever ends the process and whenever:

- A block counts from the moment that its checksum is written, which is after its bytes. The checksum is looked at when
  a process touches the block first. A damaged, vanished or foreign file is a miss.
- Only one process writes a segment, the one that holds its `flock`; the others read what appears, and one of them
  writes on when that process has closed the content, or ended. A good block is never written over.
- A file that somebody has cut is not written on, because blocks that were here would be holes then.
- A segment is removed by unlink, so that an open descriptor stays readable; it closes with the last reference.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import struct
import threading
from pathlib import Path

import xxhash

from rescalefs.private import make_inside, open_inside

log = logging.getLogger(__name__)

# What is fetched, checked and noted as one: a small random read costs little more than itself.
BLOCK_BYTES = 64 << 10
# What is opened and evicted as one: few files for large contents, little lost by an eviction.
SEGMENT_BYTES = 8 << 20
SEGMENT_BLOCKS = SEGMENT_BYTES // BLOCK_BYTES
DATA_AT = 4096  # the blocks begin at a page

_HEADER = struct.Struct("<8s40sQQ")  # mark, identity, number, size of the whole content
_MARK = b"rfs-seg2"
_VERIFIED_AT = _HEADER.size  # these blocks were part of a content that matched its checksum
_VERIFIED = b"verified"  # no damage of a byte makes it
_SUMS_AT = 128
SUM_BYTES = 8
NO_SUM = bytes(SUM_BYTES)

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
        self._end = 0  # where the last block ends that was ever here: how long the file must be
        self._writing = threading.Lock()  # one write at a time; readers take no lock
        self._lost: set[int] = set()  # blocks that proved to be damaged, until they are written again
        self.look()

    def __del__(self) -> None:
        os.close(self._descriptor)

    def look(self) -> None:
        """Learn which blocks another process has written meanwhile."""
        raw = self._pread(_SUMS_AT + SUM_BYTES * len(self.blocks), 0)
        if raw[: len(self._header)] != self._header:
            return  # new, or being made by another process
        self._sums = raw[_SUMS_AT:]
        for block in range(len(self._sums) // SUM_BYTES):
            if self.blocks[block] == MISSING and self._sum(block) != NO_SUM:
                self._reach(block + 1)
                if block not in self._lost:
                    self.blocks[block] = UNCHECKED

    def readinto(self, start: int, buffer: memoryview) -> bool:
        """Fill *buffer* with the bytes from *start* on; False if not all of them are here."""
        end = start + len(buffer)
        first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        before = self.blocks[first:last]
        are_checked = before == _ALL_PRESENT[: last - first]
        is_whole = start % BLOCK_BYTES == 0 and (end % BLOCK_BYTES == 0 or end == self.size)
        if not are_checked and not (self._are_here(first, last) if is_whole else self._check(first, last)):
            return False
        try:
            count = os.preadv(self._descriptor, [buffer], DATA_AT + start)
        except OSError as error:
            log.warning("cached segment %s cannot be read: %s", self.name, error)
            count = 0
        if are_checked or not is_whole:
            if count != len(buffer):
                log.warning("cached segment %s was cut; looking at it anew", self.name)
                self.is_evicted = True  # what is written to it now would leave a hole where it was cut
            return count == len(buffer)
        return self._compare(first, before, buffer[:count])

    def expect(self, start: int, count: int) -> None:
        """Have the kernel read *count* bytes ahead, from *start* on; nobody waits for them."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._descriptor, DATA_AT + start, count, os.POSIX_FADV_WILLNEED)

    def read(self, start: int, end: int) -> bytes | None:
        """Return bytes [start, end) of the segment, None if not all of them are here."""
        buffer = bytearray(end - start)
        return bytes(buffer) if self.readinto(start, memoryview(buffer)) else None

    def write(self, first: int, data: memoryview) -> bool:
        """Keep whole blocks from number *first* on; False if another process writes this segment.

        Raises:
            OSError: the disk is full or broken.
        """
        assert len(data) % BLOCK_BYTES == 0 or first * BLOCK_BYTES + len(data) == self.size
        last = first + -(-len(data) // BLOCK_BYTES)
        with self._writing:
            if not self._may_write():
                return False
            if not any(self.blocks[first:last]):
                self._put(first, data)
                return True
            for block, start in zip(range(first, last), range(0, len(data), BLOCK_BYTES), strict=True):
                if not self._check(block, block + 1):
                    self._put(block, data[start : start + BLOCK_BYTES])
        return True

    def leave(self) -> None:
        """Let another process write it."""
        if self._is_writer:
            with self._writing, contextlib.suppress(OSError):
                self._is_writer = False
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def is_cut(self) -> bool:
        """Tell whether the file is shorter than it was: what is written to it now would leave a hole of zeros."""
        end = self._end  # first: others may be writing on
        return os.fstat(self._descriptor).st_size < end

    def _may_write(self) -> bool:
        """Tell whether this process writes the segment; it takes over from one that has left it, or ended."""
        if not self._is_writer and _lock(self._descriptor):
            there = self._pread(len(self._header), 0)
            if os.fstat(self._descriptor).st_nlink == 0 or there not in (b"", self._header):
                self.is_evicted = True  # so that it is opened anew
                return False
            if not there:
                _write_all(self._descriptor, memoryview(self._header), 0)
            self._is_writer = True
            self._lost.clear()  # they may have come anew from another process
            self.look()
        return self._is_writer

    def _put(self, first: int, data: memoryview) -> None:
        sums = block_sums(data)
        if self._is_marked:
            os.pwrite(self._descriptor, bytes(len(_VERIFIED)), _VERIFIED_AT)  # it was verified with other bytes
        _write_all(self._descriptor, data, DATA_AT + first * BLOCK_BYTES)
        _write_all(self._descriptor, memoryview(sums), _SUMS_AT + first * SUM_BYTES)
        last = first + len(sums) // SUM_BYTES
        self._lost.difference_update(range(first, last))
        self._reach(last)
        self.blocks[first:last] = _ALL_PRESENT[: last - first]

    def _reach(self, last: int) -> None:
        """Note that the blocks before number *last* are in the file; a race may lose that, which does no harm."""
        self._end = max(self._end, DATA_AT + min(last * BLOCK_BYTES, self.size))

    @property
    def is_verified(self) -> bool:
        """Whether all of this segment was part of a content that matched its checksum."""
        return MISSING not in self.blocks and self._is_marked

    @property
    def _is_marked(self) -> bool:
        return self._pread(len(_VERIFIED), _VERIFIED_AT) == _VERIFIED

    def mark_verified(self) -> None:
        """Remember that the content matched its checksum with the blocks that are here."""
        os.pwrite(self._descriptor, _VERIFIED, _VERIFIED_AT)

    def note_use_on_disk(self) -> None:
        """Tell the other processes, and the next one, that this segment was used now."""
        with contextlib.suppress(OSError):
            os.utime(self._descriptor)
            self.is_evicted = self.is_evicted or os.fstat(self._descriptor).st_nlink == 0

    def _are_here(self, first: int, last: int) -> bool:
        """Tell whether these blocks are here, checked or not."""
        if MISSING in self.blocks[first:last] and not self._is_writer:
            self.look()
        return MISSING not in self.blocks[first:last]

    def _check(self, first: int, last: int) -> bool:
        """Tell whether these blocks are here, comparing those not yet touched with their checksums."""
        if not self._are_here(first, last):
            return False
        are_right = True
        for block in range(first, last):
            if self.blocks[block] == UNCHECKED:
                start = block * BLOCK_BYTES
                data = self._pread(min(BLOCK_BYTES, self.size - start), DATA_AT + start)
                are_right &= self._compare(block, bytes([UNCHECKED]), memoryview(data))
        return are_right

    def _compare(self, first: int, before: bytes | bytearray, data: memoryview) -> bool:
        """Compare those blocks with their checksums that were in doubt *before* they were read; lose the wrong ones."""
        are_right = True
        for index, state in enumerate(before):
            block, at = first + index, index * BLOCK_BYTES
            if state == PRESENT:
                continue
            if xxhash.xxh3_64_digest(data[at : at + BLOCK_BYTES]) != self._sum(block):
                if self.blocks[block] == UNCHECKED:  # else another thread has seen it, and may have written it anew
                    self._lose(block)
                are_right = False
            elif self.blocks[block] == UNCHECKED:
                self.blocks[block] = PRESENT
        return are_right

    def _sum(self, block: int) -> bytes:
        return self._sums[block * SUM_BYTES : (block + 1) * SUM_BYTES]

    def _pread(self, count: int, at: int) -> bytes:
        try:
            return os.pread(self._descriptor, count, at)
        except OSError as error:
            log.warning("cached segment %s cannot be read: %s", self.name, error)
            return b""

    def _lose(self, block: int) -> None:
        log.warning("cached segment %s is damaged in block %d; fetching it again", self.name, block)
        self._lost.add(block)
        self.blocks[block] = MISSING


def block_sums(data: memoryview) -> bytes:
    """Return the checksums of blocks, SUM_BYTES each."""
    return b"".join(xxhash.xxh3_64_digest(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES))


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
    flags = os.O_RDWR | (os.O_CREAT if may_make else 0)
    for _ in range(3):
        try:
            descriptor = open_inside(root, name, flags)
        except FileNotFoundError:
            if not may_make:
                return None
            make_inside(path.parent)
            continue
        except OSError as error:
            link = {errno.ELOOP: path, errno.ENOTDIR: path.parent}.get(error.errno or 0)
            if not may_make:
                return None
            if link is None or not link.is_symlink():
                raise
            link.unlink(missing_ok=True)  # it leads elsewhere
            continue
        try:
            is_writer = _lock(descriptor)
            there = os.pread(descriptor, len(header), 0)
            is_foreign = there != header and is_writer and bool(there or not may_make)  # cut short, or something else
            is_gone = os.fstat(descriptor).st_nlink == 0  # removed by another process just now
            if not there and is_writer and not is_foreign:
                _write_all(descriptor, memoryview(header), 0)
        except OSError:
            os.close(descriptor)
            raise
        if not is_foreign and not is_gone:
            return Segment(name, descriptor, header, size, is_writer=is_writer)
        os.close(descriptor)
        if is_foreign and not is_gone:
            path.unlink(missing_ok=True)
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
