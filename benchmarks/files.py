"""What the origin serves: a tree of files, made before anything is measured.

    large/seq.bin, large/big.bin      one for reading whole, one for reading here and there
    large/note.dat                    one page
    small/dNN/fNNN.dat                many small files in some directories
    twins/twin.bin                    in the API, the same file in every run of the job
    wide/pNN/NNN/field_N.dat          in the API, the names of a large run, without bytes
    flat/all/field_N.dat              the same in one directory
    vast/pNN/NNN/field_N.dat          the same of a very large run, where it is asked for
    sweep/case/field_N.dat            in the API, the names of many runs, without bytes
    base.bin                          what the files of the job `many` are windows of; not part of the plain tree

The files of `many` are bytes [n * STEP_BYTES, n * STEP_BYTES + size) of one file, so that hundreds of large and
different files cost the disk one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rescalefs.emulator.content import Content, Generated

MIB = 1 << 20
# By how much the windows of `many` differ: no block of one equals the block at the same place of another.
STEP_BYTES = 4099
SEQ, BIG, NOTE, TWIN = "large/seq.bin", "large/big.bin", "large/note.dat", "twins/twin.bin"
WIDE, FLAT, VAST, SWEEP = "wide", "flat", "vast", "sweep"


@dataclass(frozen=True)
class Sizes:
    """How large and how many everything is."""

    seq_bytes: int = 256 * MIB
    big_bytes: int = 1024 * MIB
    note_bytes: int = 4096
    small_bytes: int = 100_000
    small_directories: int = 20
    small_per_directory: int = 50
    twin_bytes: int = MIB
    twin_runs: int = 12
    many_bytes: int = 64 * MIB
    many_files: int = 300
    readers_in_memory: int = 200  # of row `memory`
    memory_read_bytes: int = 4 * MIB  # by each of them
    random_reads: int = 100
    reopens: int = 5000
    wide_files: int = 100_000
    flat_files: int = 100_000
    vast_files: int = 1_000_000
    sweep_runs: int = 121
    sweep_files: int = 66  # of each
    followed_lines: int = 40

    @property
    def small_names(self) -> list[str]:
        """Return the small files, in order."""
        return [
            f"small/d{directory:02}/f{number:03}.dat"
            for directory in range(self.small_directories)
            for number in range(self.small_per_directory)
        ]

    @property
    def many_names(self) -> list[str]:
        """Return the names of the windows."""
        return [f"many/w{number:03}.bin" for number in range(self.many_files)]

    @property
    def wide_names(self) -> list[str]:
        """Return the names of the large run."""
        return [f"{WIDE}/{wide_name(number)}" for number in range(self.wide_files)]


def wide_name(number: int) -> str:
    """Return the path of one file of the large run, as a case in 20 parts with 100 files a time step has them."""
    part, place = divmod(number, 5000)
    return f"p{part:02}/{place // 100:03}/field_{place % 100:02}.dat"


QUICK = Sizes(
    seq_bytes=16 * MIB,
    big_bytes=32 * MIB,
    small_directories=4,
    small_per_directory=10,
    twin_runs=3,
    many_bytes=8 * MIB,
    many_files=20,
    readers_in_memory=10,
    memory_read_bytes=2 * MIB,
    random_reads=10,
    reopens=300,
    wide_files=2500,
    flat_files=2500,
    vast_files=5000,
    sweep_runs=12,
    followed_lines=3,
)


class Window(Content):
    """Part of a file, as if it were one."""

    def __init__(self, path: Path, first: int, size: int) -> None:
        """Hold *size* bytes of *path* from byte *first* on."""
        super().__init__(size)
        self._path, self._first = path, first

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes [start, stop)."""
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), max(0, min(stop, self.size) - start), self._first + start)


def make(root: Path, sizes: Sizes) -> None:
    """Write the tree below *root*."""
    _write(root / "base.bin", sizes.many_bytes + sizes.many_files * STEP_BYTES)
    sized = {SEQ: sizes.seq_bytes, BIG: sizes.big_bytes, NOTE: sizes.note_bytes, TWIN: sizes.twin_bytes}
    for name, size in sized.items():
        _write(root / "tree" / name, size)
    for name in sizes.small_names:
        _write(root / "tree" / name, sizes.small_bytes)


def _write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for block in Generated(size, path.name + path.parent.name).blocks():
            file.write(block)


def checksum(path: Path, start: int = 0, size: int = -1, algorithm: str = "sha512") -> str:
    """Return the checksum of *size* bytes of *path* from *start* on, by default of all."""
    return checksum_of_parts(path, [(start, path.stat().st_size - start if size < 0 else size)], algorithm)


def checksum_of_parts(path: Path, parts: Iterable[tuple[int, int]], algorithm: str = "sha512") -> str:
    """Return the checksum of parts of *path*, each a first byte and a number of bytes, one after the other."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        for start, left in parts:
            file.seek(start)
            while left and (data := file.read(min(MIB, left))):
                digest.update(data)
                left -= len(data)
    return digest.hexdigest()
